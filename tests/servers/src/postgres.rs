//! Postgres, with a database and a user of its own.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, free_address};

/// The superuser, its database, and its password.
const USER: &str = "dreamcatcher";
const PASSWORD: &str = "nobody-guesses-this";

/// A Postgres server with an empty database. Passwords are asked for (SCRAM).
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    address: SocketAddr,
    directory: TempDir,
}

impl Postgres {
    /// A server with an empty database of the superuser's name.
    #[must_use]
    pub fn start() -> Self {
        let postgres = Self::bare();
        let _ = postgres.admin("postgres", &format!("CREATE DATABASE {USER}"));
        postgres
    }

    /// A server as it is installed: with no database but its own.
    #[must_use]
    pub fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("a folder: {e}"));
        let password = directory.path().join("password");
        write(&password, PASSWORD);
        if is_root() {
            done(
                Command::new("chown")
                    .args(["-R", "postgres:"])
                    .arg(directory.path()),
            );
        }
        done(
            program("initdb")
                .args([
                    "--no-sync",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--auth=scram-sha-256",
                ])
                .arg(format!("--username={USER}"))
                .arg(format!("--pwfile={}", password.display()))
                .arg(data(directory.path())),
        );
        let address = free_address();
        Self {
            process: run(&directory, address),
            address,
            directory,
        }
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// With user, password and database.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}/{USER}", self.address)
    }

    /// With user, password and the server's own database.
    #[must_use]
    pub fn admin_url(&self) -> String {
        format!("postgres://{USER}:{PASSWORD}@{}/postgres", self.address)
    }

    /// Runs SQL through `psql`: what it printed, columns separated by `|`. Panics if it failed.
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        self.admin(USER, sql)
    }

    /// Ends it at once; what was committed is there after [`Self::restart`].
    pub fn kill(&mut self) {
        if self.process.is_running() {
            self.process.signal(Signal::QUIT);
        }
        self.process.kill();
    }

    /// Starts it again on the same port, with the same data.
    pub fn restart(&mut self) {
        self.kill();
        // Left behind by a server that was killed.
        let _ = fs::remove_file(data(self.directory.path()).join("postmaster.pid"));
        self.process = run(&self.directory, self.address);
    }

    /// Stops the process that takes connections: new ones are not answered.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    fn admin(&self, database: &str, sql: &str) -> String {
        let output = Command::new("psql")
            .args([
                "--no-psqlrc",
                "--quiet",
                "--tuples-only",
                "--no-align",
                "--set=ON_ERROR_STOP=1",
            ])
            .arg(format!(
                "postgres://{USER}:{PASSWORD}@{}/{database}",
                self.address
            ))
            .args(["--command", sql])
            .output()
            .unwrap_or_else(|e| panic!("psql does not start: {e}"));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }
}

fn run(directory: &TempDir, address: SocketAddr) -> Process {
    let mut command = program("postgres");
    command
        .arg("-D")
        .arg(data(directory.path()))
        .args([
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "fsync=off",
            "-c",
            "log_destination=stderr",
        ])
        .args([
            "-c",
            "logging_collector=off",
            "-c",
            "lc_messages=C",
            "-c",
            "max_connections=50",
        ])
        .arg("-c")
        .arg(format!(
            "unix_socket_directories={}",
            directory.path().display()
        ))
        .args(["-p", &address.port().to_string()]);
    Process::start(command, "database system is ready to accept connections")
}

fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// One of the server's programs. It refuses to run as root, and then runs as the user that its
/// package made.
fn program(name: &str) -> Command {
    let path = installed(name);
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups"])
        .arg(path)
        .current_dir("/");
    command
}

/// Debian keeps the programs of each version in a folder of its own, off the path.
fn installed(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let mut found: Vec<PathBuf> = versions
        .map(|version| version.path().join("bin").join(name))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| name.into())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn done(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| {
        panic!("{command:?} does not start ({e}): run ./test, which installs it")
    });
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_committed_is_there_after_a_crash() {
        let mut postgres = Postgres::start();
        let _ = postgres.sql("CREATE TABLE kept (n integer); INSERT INTO kept VALUES (7)");
        postgres.restart();
        assert_eq!(postgres.sql("SELECT n FROM kept"), "7");
    }
}
