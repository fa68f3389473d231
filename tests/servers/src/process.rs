//! One server's process: started, waited for by what it says, stopped and killed.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a server may take to say that it is ready: machines under test are busy.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Lines that wait to be looked at; a server that becomes ready says a dozen.
const LINES_MAX: usize = 1_024;

/// A process that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// Starts `command` and returns once it has said `ready` on either of its outputs. Panics with
    /// what it said instead.
    pub(crate) fn start(mut command: Command, ready: &str) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| {
            panic!("{command:?} does not start ({e}): run ./test, which installs it")
        });
        let (said, lines) = mpsc::sync_channel(LINES_MAX);
        if let Some(output) = child.stdout.take() {
            listen(output, said.clone());
        }
        if let Some(output) = child.stderr.take() {
            listen(output, said);
        }
        let process = Self(child);
        let mut all = String::new();
        loop {
            match lines.recv_timeout(READY_WITHIN) {
                Ok(line) if line.contains(ready) => return process,
                Ok(line) => all = all + &line + "\n",
                Err(e) => panic!("{command:?} is not ready ({e}); it said:\n{all}"),
            }
        }
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        // An error is a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has not ended: afterwards its id may be another's.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw);
        let id = id.unwrap_or_else(|| panic!("{} is no process id", self.0.id()));
        kill_process(id, signal).unwrap_or_else(|e| panic!("{signal:?}: {e}"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads to the end, so that the server never waits for its reader; lines that nobody waits for are
/// dropped.
fn listen(output: impl Read + Send + 'static, said: mpsc::SyncSender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = said.try_send(line);
        }
    });
}

/// A TCP port of loopback that nobody has at this moment.
#[must_use]
pub fn free_address() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|e| panic!("no free port: {e}"))
}

/// The same for UDP.
#[must_use]
pub fn free_udp_address() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|socket| socket.local_addr())
        .unwrap_or_else(|e| panic!("no free port: {e}"))
}
