//! Redis, without persistence.

use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, free_address};

/// A Redis server that keeps nothing on disk.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
    arguments: Vec<String>,
    _directory: TempDir,
}

impl Redis {
    /// A server on a free port, without a password.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server with more arguments, as on its command line: `["--requirepass", "secret"]`.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("a folder: {e}"));
        let address = free_address();
        let mut all: Vec<String> = [
            "--bind",
            "127.0.0.1",
            "--port",
            &address.port().to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
            "--dir",
            &directory.path().display().to_string(),
        ]
        .map(str::to_owned)
        .into();
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Self {
            process: run(&all),
            address,
            arguments: all,
            _directory: directory,
        }
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Without user and password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Ends it at once; what it held is gone.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = run(&self.arguments);
    }

    /// Stops its clock: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Runs `redis-cli` against it: what it printed. Panics if it failed.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-h", "127.0.0.1", "-p", &self.address.port().to_string()])
            .args(arguments)
            .output()
            .unwrap_or_else(|e| panic!("redis-cli does not start: {e}"));
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }
}

fn run(arguments: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command.args(arguments);
    Process::start(command, "Ready to accept connections")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarted_server_is_empty_and_has_its_port() {
        let mut redis = Redis::start();
        let address = redis.address();
        assert_eq!(redis.cli(&["set", "key", "value"]), "OK");
        assert_eq!(redis.cli(&["get", "key"]), "value");
        redis.restart();
        assert_eq!(redis.cli(&["get", "key"]), "");
        assert_eq!(redis.address(), address);
    }
}
