//! An auth service for tests: a closure answers each request, over HTTP or HTTPS.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Longer than anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(20);

/// It ends when dropped.
pub(crate) struct Stub {
    address: SocketAddr,
    scheme: &'static str,
    asked: Arc<Asked>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Asked {
    requests: Mutex<Vec<String>>,
    more: Condvar,
}

impl Stub {
    /// Answers each request, head and body, with what `answer` makes of it.
    pub(crate) fn http(answer: impl Fn(&str) -> String + Send + 'static) -> Self {
        Self::start("http", None, answer)
    }

    /// The same over TLS, as a server that `authority` vouches for.
    pub(crate) fn https(
        authority: &Authority,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> Self {
        Self::start("https", Some(authority.server("localhost")), answer)
    }

    /// A server whose certificate names another host.
    pub(crate) fn https_as(name: &str, authority: &Authority) -> Self {
        Self::start("https", Some(authority.server(name)), |_| String::new())
    }

    fn start(
        scheme: &'static str,
        tls: Option<Arc<ServerConfig>>,
        answer: impl Fn(&str) -> String + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, stop) = (Arc::<Asked>::default(), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                match &tls {
                    None => serve(stream, &noted, &answer),
                    Some(tls) => {
                        let connection = ServerConnection::new(Arc::clone(tls)).unwrap();
                        let mut stream = StreamOwned::new(connection, stream);
                        serve(&mut stream, &noted, &answer);
                        stream.conn.send_close_notify();
                        // A client that refuses the certificate has gone.
                        let _ = stream.flush();
                    }
                }
            }
        });
        Self {
            address,
            scheme,
            asked,
            stop,
            thread: Some(thread),
        }
    }

    pub(crate) fn url(&self) -> String {
        let host = if self.scheme == "https" {
            "localhost".to_owned()
        } else {
            self.address.ip().to_string()
        };
        format!("{}://{host}:{}", self.scheme, self.address.port())
    }

    /// The requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.requests.lock().unwrap().clone()
    }

    /// Waits for a request that begins so, from the `skip`th on.
    pub(crate) fn wait_for(&self, beginning: &str, skip: usize) -> String {
        let until = Instant::now() + PATIENCE;
        let mut requests = self.asked.requests.lock().unwrap();
        loop {
            let mut those = requests.iter().filter(|text| text.starts_with(beginning));
            if let Some(found) = those.nth(skip) {
                return found.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {beginning} came: {requests:?}");
            requests = self.asked.more.wait_timeout(requests, left).unwrap().0;
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the stub panicked");
        }
    }
}

fn serve(mut stream: impl Read + Write, asked: &Asked, answer: &impl Fn(&str) -> String) {
    let Some(request) = read(&mut stream) else {
        return;
    };
    asked.requests.lock().unwrap().push(request.clone());
    asked.more.notify_all();
    // A client may have lost patience.
    let _ = stream.write_all(answer(&request).as_bytes());
    let _ = stream.flush();
}

/// A whole request; `None` if none came.
fn read(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => request.extend_from_slice(&buffer[..count]),
        }
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return Some(text.into_owned());
            }
        }
    }
}

/// An answer of JSON.
pub(crate) fn json(status: &str, body: &serde_json::Value) -> String {
    let body = body.to_string();
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// A sign-in with these tokens, for so many seconds.
pub(crate) fn signed_in(token: &str, seconds: u64, refresh_token: Option<&str>) -> String {
    let mut body = serde_json::json!({
        "user_id": "9f86d081884c7d659a2feaa0c55ad015", "display_name": "Ada",
        "access_token": token, "expires_in_s": seconds, "token_type": "Bearer",
    });
    if let Some(refresh_token) = refresh_token {
        body["refresh_token"] = refresh_token.into();
        body["refresh_expires_in_s"] = 2_592_000.into();
    }
    json("200 OK", &body)
}

/// A refusal as the auth service words it.
pub(crate) fn refused(status: &str, code: u16, message: &str) -> String {
    json(
        status,
        &serde_json::json!({ "code": code, "name": "x", "message": message, "retryable": false }),
    )
}

/// A certificate authority of one's own.
pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: rcgen::Issuer::new(params, key),
            pem,
        }
    }

    fn server(&self, name: &str) -> Arc<ServerConfig> {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }
}
