//! The binary, and the processes that run it. Each ends with the value that holds it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

use crate::client::{Client, RelayAddress};
use crate::tls::Trust;
use crate::token::Key;
use crate::within;

/// The `dreamcatcher` binary of this workspace, built if it is not up to date.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        // target/PROFILE/deps/TEST
        let this = std::env::current_exe().expect("a test knows its own path");
        let profile = this
            .ancestors()
            .nth(2)
            .expect("a test is in target/PROFILE/deps");
        let mut build =
            std::process::Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        // As an integration test of the binary's crate, with the whole workspace: the features are then
        // those of `./test`, which has built all of it already. Another selection compiles most
        // dependencies a second time.
        build
            .args(["test", "--no-run", "--quiet", "--locked", "--workspace"])
            .args(["--test", "cli"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .env(
                "CARGO_TARGET_DIR",
                profile.parent().expect("a profile is in target"),
            );
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build
            .status()
            .unwrap_or_else(|e| panic!("cargo does not start: {e}"));
        assert!(status.success(), "the binary does not build");
        profile.join("dreamcatcher")
    })
}

/// One process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    errors: JoinHandle<String>,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; `None` if a signal ended it.
    pub status: Option<i32>,
    pub stderr: String,
}

impl Process {
    /// Starts the binary. What it writes to standard error goes to the test's, line by line, and is
    /// kept for [`Self::ended`].
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_with(arguments, &[])
    }

    /// The same, with more environment variables.
    #[must_use]
    pub fn start_with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary().display()));
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let mut stderr =
            BufReader::new(child.stderr.take().expect("standard error is a pipe")).lines();
        let errors = tokio::spawn(async move {
            let mut all = String::new();
            while let Ok(Some(line)) = stderr.next_line().await {
                eprintln!("{line}");
                all += &line;
                all.push('\n');
            }
            all
        });
        Self {
            child,
            stdout: BufReader::new(stdout).lines(),
            errors,
        }
    }

    /// The first line from here on that has `text` in it, of those on standard output.
    pub async fn said(&mut self, text: &str) -> String {
        within(text, async {
            loop {
                match self
                    .stdout
                    .next_line()
                    .await
                    .expect("standard output is UTF-8")
                {
                    Some(line) if line.contains(text) => return line,
                    Some(_) => {}
                    None => panic!("the process ended before it said {text:?}"),
                }
            }
        })
        .await
    }

    /// All that it writes to standard output from here to its end, which is to be a good one.
    pub async fn output(&mut self) -> String {
        let mut all = String::new();
        let status = within("the end of the process", async {
            while let Ok(Some(line)) = self.stdout.next_line().await {
                all += &line;
                all.push('\n');
            }
            self.child.wait().await
        })
        .await;
        let status = status.expect("a child can be waited for");
        assert!(status.success(), "{status}: {all}");
        all
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it as a crash does.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        within("the end of a killed process", self.child.wait())
            .await
            .expect("a child can be waited for");
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().expect("it runs") as i32;
        kill_process(Pid::from_raw(id).expect("an id is not 0"), signal).expect("it runs");
    }

    /// Waits for its end.
    pub async fn ended(mut self) -> Ended {
        let (status, stderr) = within("the end of the process", async {
            while let Ok(Some(_)) = self.stdout.next_line().await {}
            tokio::join!(self.child.wait(), self.errors)
        })
        .await;
        Ended {
            status: status.expect("a child can be waited for").code(),
            stderr: stderr.expect("reading does not panic"),
        }
    }
}

/// A mesh of relays with their auth service: `dreamcatcher dev`.
#[derive(Debug)]
pub struct Mesh {
    pub process: Process,
    pub relays: Vec<RelayAddress>,
    auth: String,
    http: reqwest::Client,
    _directory: TempDir,
}

impl Mesh {
    /// Starts a mesh in one region and waits until it is up.
    pub async fn start(relays: usize) -> Self {
        Self::start_in("local", relays).await
    }

    /// Starts a mesh and waits until it is up. Regions are separated by commas; relays are dealt out
    /// to them in turn.
    pub async fn start_in(regions: &str, relays: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("addresses.json");
        let name = file.to_str().expect("a UTF-8 path");
        let count = relays.to_string();
        let mesh = [
            "dev",
            "--relays",
            &count,
            "--regions",
            regions,
            "--addresses",
            name,
        ];
        let mut process = Process::start(&mesh);
        process.said("Ctrl-C").await;
        let addresses = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        let addresses: Value =
            serde_json::from_str(&addresses).unwrap_or_else(|e| panic!("{addresses}: {e}"));
        let auth = addresses["auth"]
            .as_str()
            .expect("auth is a URL")
            .to_owned();
        let http = http_client();
        let mut mesh = Self {
            process,
            relays: Vec::new(),
            auth,
            http,
            _directory: directory,
        };
        let list = mesh.get("/v1/relays").await;
        mesh.relays = list["relays"]
            .as_array()
            .expect("a list")
            .iter()
            .map(relay_address)
            .collect();
        assert_eq!(mesh.relays.len(), relays, "{list}");
        mesh
    }

    /// The access token of a new guest.
    pub async fn token(&self, name: &str) -> String {
        static GUESTS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        let number = GUESTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let guest = json!({"secret": format!("{number:032}"), "display_name": name});
        let request = self.http.post(format!("{}/v1/guest", self.auth));
        let request = request
            .header("content-type", "application/json")
            .body(guest.to_string());
        let answer = answer(request).await;
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    /// A client with a new guest's token, on the relay with this number.
    pub async fn client(&self, relay: usize, name: &str) -> Client {
        Client::hello(&self.relays[relay], &self.token(name).await).await
    }

    async fn get(&self, path: &str) -> Value {
        answer(self.http.get(format!("{}{path}", self.auth))).await
    }
}

/// An HTTP client that goes straight to where it is sent.
#[must_use]
pub fn http_client() -> reqwest::Client {
    // Fails only where there is a provider already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("an HTTP client")
}

pub(crate) async fn answer(request: reqwest::RequestBuilder) -> Value {
    let answer = within("an HTTP answer", request.send())
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let text = answer.text().await.unwrap_or_else(|e| panic!("{e}"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn relay_address(relay: &Value) -> RelayAddress {
    let address = relay["address"]
        .as_str()
        .expect("an address")
        .parse()
        .expect("ADDRESS:PORT");
    let hashes = relay["certificate_sha256"]
        .as_array()
        .expect("a list of hashes");
    let hashes = hashes
        .iter()
        .map(|hash| sha256(hash.as_str().expect("a hash is text")))
        .collect();
    RelayAddress {
        address,
        trust: Trust::Pinned(hashes),
    }
}

fn sha256(hex: &str) -> [u8; 32] {
    assert_eq!(hex.len(), 64, "{hex}");
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("hexadecimal"))
}

/// A relay on its own, which trusts tokens that `key` signed.
#[derive(Debug)]
pub struct LoneRelay {
    pub process: Process,
    pub relay: RelayAddress,
    _directory: TempDir,
}

impl LoneRelay {
    /// Starts a relay and waits until it is up.
    pub async fn start(key: &Key) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (jwks, cluster_key) = secrets(directory.path(), key);
        let anywhere = "127.0.0.1:0";
        let mut process = Process::start(&[
            "relay",
            "--id",
            "lone",
            "--nodes",
            "1",
            "--listen",
            anywhere,
            "--mesh-listen",
            anywhere,
            "--admin",
            anywhere,
            "--jwks",
            &jwks,
            "--cluster-key-file",
            &cluster_key,
        ]);
        let line = process.said("is listening on ").await;
        let address = line
            .split_whitespace()
            .nth(4)
            .and_then(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("no address in {line:?}"));
        let relay = RelayAddress {
            address,
            trust: Trust::Any,
        };
        Self {
            process,
            relay,
            _directory: directory,
        }
    }
}

/// The paths of a JWKS file with `key` and of a cluster key file, both new in `directory`.
#[must_use]
pub fn secrets(directory: &Path, key: &Key) -> (String, String) {
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a new file");
        let ours = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, ours).expect("its mode");
        path.to_str().expect("a UTF-8 path").to_owned()
    };
    (
        write("jwks.json", key.jwks()),
        write("cluster.key", "c7".repeat(32)),
    )
}
