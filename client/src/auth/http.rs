//! As much of HTTP/1.1 (RFC 9112) as one small JSON call needs: one request, one answer, close.
//!
//! ```text
//!   name ─▶ addresses ─▶ TCP ─▶ TLS (https) ─▶ request, answer      each has its time, all have one
//! ```
//!
//! It blocks: whoever must not calls it on a thread of its own. Proxies are not used, redirects are
//! not followed, and nothing is sent twice.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dreamcatcher_proto::ErrorCode;
use rustls::{ClientConnection, StreamOwned};

use super::error::{AuthError, Step};
use super::tls;
use super::url::AuthUrl;

/// Largest answer: a list of a thousand relays fits several times.
const ANSWER_BYTES_MAX: usize = 1_048_576;
/// For the host's addresses. A resolver that gets no answer at all takes longer than a player waits.
const NAME_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of a host that are tried.
const ADDRESSES_MAX: usize = 8;
/// To reach one address of the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// From the first byte of TLS to the last of its handshake.
const TLS_TIMEOUT: Duration = Duration::from_secs(4);
/// The whole call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    /// The access token, for what a user asks about itself.
    pub(crate) bearer: Option<String>,
    /// JSON.
    pub(crate) body: Option<String>,
}

impl Request {
    pub(crate) fn get(path: &'static str) -> Self {
        Self {
            method: "GET",
            path,
            bearer: None,
            body: None,
        }
    }

    pub(crate) fn post(path: &'static str, body: &serde_json::Value) -> Self {
        Self {
            method: "POST",
            path,
            bearer: None,
            body: Some(body.to_string()),
        }
    }

    pub(crate) fn bearer(self, token: Option<&str>) -> Self {
        Self {
            bearer: token.map(str::to_owned),
            ..self
        }
    }
}

/// What was answered, whatever the status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The header `Retry-After` in seconds.
    pub(crate) retry_after: Option<Duration>,
    /// The header `Date`.
    pub(crate) date: Option<String>,
    /// Where the service says that it is instead.
    pub(crate) location: Option<String>,
    pub(crate) body: Vec<u8>,
    pub(crate) course: Course,
}

/// How a call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Course {
    pub(crate) from: SocketAddr,
    pub(crate) connect: Duration,
    pub(crate) tls: Option<Duration>,
    pub(crate) total: Duration,
}

/// Makes one call.
pub(crate) fn call(url: &AuthUrl, request: &Request) -> Result<Answer, AuthError> {
    let head = head(url, request)?;
    let tls = url.is_tls().then(|| tls::connection(url)).transpose()?;
    let begun = Instant::now();
    let deadline = begun + CALL_TIMEOUT;
    let addresses = resolve(url)?;
    let connecting = Instant::now();
    let (from, stream) = connect(url, &addresses, deadline)?;
    let connect = connecting.elapsed();
    let body = request.body.as_deref().unwrap_or_default();
    let (bytes, tls) = match tls {
        Some(connection) => {
            let (mut stream, tls) = shake_hands(url, connection, stream, deadline)?;
            (exchange(&mut stream, &head, body), Some(tls))
        }
        None => {
            let mut stream = Timed { stream, deadline };
            (exchange(&mut stream, &head, body), None)
        }
    };
    let bytes = bytes.map_err(|error| unreachable(url, Step::Exchange, &error))?;
    let course = Course {
        from,
        connect,
        tls,
        total: begun.elapsed(),
    };
    parse(&bytes, course).ok_or_else(|| {
        let message = format!("what answers at {url} is not an HTTP service");
        AuthError::new(Step::Exchange, ErrorCode::ConnectionLost, message)
    })
}

// ----------------------------------------------------------------------------------- connecting

/// The host's addresses, in the order in which the system wants them tried.
pub(crate) fn resolve(url: &AuthUrl) -> Result<Vec<SocketAddr>, AuthError> {
    let (host, port) = (url.host().to_owned(), url.port());
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![(ip, port).into()]);
    }
    let failed = |code, why: &dyn std::fmt::Display| {
        let message = format!("the auth service at {url}: its name has no address: {why}");
        AuthError::new(Step::Name, code, message)
    };
    // The system's resolver cannot be told to hurry; its thread ends when it gives up.
    let (found, addresses) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("dreamcatcher-dns".to_owned())
        .spawn(move || {
            let look_up = (host.as_str(), port).to_socket_addrs();
            // Nobody waits any more if this fails.
            let _ = found.send(look_up.map(|all| all.take(ADDRESSES_MAX).collect::<Vec<_>>()));
        })
        .map_err(|error| failed(ErrorCode::Internal, &error))?;
    match addresses.recv_timeout(NAME_TIMEOUT) {
        Ok(Ok(addresses)) if addresses.is_empty() => {
            Err(failed(ErrorCode::ConnectionLost, &"none is known"))
        }
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(failed(ErrorCode::ConnectionLost, &error)),
        Err(_) => Err(failed(
            ErrorCode::TimedOut,
            &format_args!("no answer within {NAME_TIMEOUT:?}"),
        )),
    }
}

fn connect(
    url: &AuthUrl,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(SocketAddr, TcpStream), AuthError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        let tried = left(deadline)
            .and_then(|left| TcpStream::connect_timeout(address, left.min(CONNECT_TIMEOUT)))
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        match tried {
            Ok(stream) => return Ok((*address, stream)),
            Err(error) => last = error,
        }
    }
    Err(unreachable(url, Step::Connect, &last))
}

fn shake_hands(
    url: &AuthUrl,
    mut connection: ClientConnection,
    stream: TcpStream,
    deadline: Instant,
) -> Result<(StreamOwned<ClientConnection, Timed>, Duration), AuthError> {
    let begun = Instant::now();
    let mut stream = Timed {
        stream,
        deadline: deadline.min(Instant::now() + TLS_TIMEOUT),
    };
    while connection.is_handshaking() {
        connection
            .complete_io(&mut stream)
            .map_err(|error| unreachable(url, Step::Tls, &error))?;
    }
    stream.deadline = deadline;
    Ok((StreamOwned::new(connection, stream), begun.elapsed()))
}

fn unreachable(url: &AuthUrl, step: Step, error: &io::Error) -> AuthError {
    let late = matches!(
        error.kind(),
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
    );
    let code = if late {
        ErrorCode::TimedOut
    } else {
        ErrorCode::ConnectionLost
    };
    let how = if step == Step::Tls { " by TLS" } else { "" };
    let message = format!("the auth service at {url} cannot be reached{how}: {error}");
    AuthError::new(step, code, message)
}

/// A stream on which nothing waits beyond the deadline.
#[derive(Debug)]
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(left(self.deadline)?))?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(left)
}

// ------------------------------------------------------------------------------------- exchange

/// The request without its body.
fn head(url: &AuthUrl, request: &Request) -> Result<String, AuthError> {
    let Request {
        method,
        path,
        bearer,
        body,
    } = request;
    let mut head = format!(
        "{method} {}{path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\nConnection: close\r\n",
        url.path(),
        url.authority()
    );
    if let Some(token) = bearer {
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = "the access token is empty, or has characters that no token has";
            return Err(AuthError::new(
                Step::Start,
                ErrorCode::InvalidArgument,
                message,
            ));
        }
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if let Some(body) = body {
        let length = body.len();
        head.push_str(&format!(
            "Content-Type: application/json\r\nContent-Length: {length}\r\n"
        ));
    }
    head.push_str("\r\n");
    Ok(head)
}

fn exchange(stream: &mut (impl Read + Write), head: &str, body: &str) -> io::Result<Vec<u8>> {
    stream.write_all(format!("{head}{body}").as_bytes())?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16_384];
    while !is_whole(&answer) {
        if answer.len() > ANSWER_BYTES_MAX {
            let message = format!("the answer has more than {ANSWER_BYTES_MAX} bytes");
            return Err(io::Error::other(message));
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

/// Whether the answer says where it ends and has come that far; otherwise the end of the connection
/// is the end of the answer.
fn is_whole(bytes: &[u8]) -> bool {
    split(bytes).is_some_and(|(head, body)| match extent(head) {
        Extent::None => true,
        Extent::Length(length) => length.is_some_and(|length| body.len() >= length),
        Extent::Chunks => join_chunks(body).is_some(),
        Extent::Connection => false,
    })
}

/// Where an answer's body ends (RFC 9112, 6.3).
enum Extent {
    /// There is none: 204.
    None,
    /// After as many bytes; `None` for a length that is not a number.
    Length(Option<usize>),
    Chunks,
    /// With the connection.
    Connection,
}

fn extent(head: &str) -> Extent {
    if status(head) == Some(204) {
        Extent::None
    } else if header(head, "transfer-encoding").is_some() {
        Extent::Chunks
    } else if let Some(length) = header(head, "content-length") {
        Extent::Length(length.parse().ok())
    } else {
        Extent::Connection
    }
}

fn parse(bytes: &[u8], course: Course) -> Option<Answer> {
    let (head, body) = split(bytes)?;
    let body = match extent(head) {
        Extent::None => Vec::new(),
        Extent::Length(length) => body.get(..length?)?.to_vec(),
        Extent::Chunks => join_chunks(body)?,
        Extent::Connection => body.to_vec(),
    };
    let retry_after = header(head, "retry-after").and_then(|seconds| seconds.parse().ok());
    Some(Answer {
        status: status(head)?,
        retry_after: retry_after.map(Duration::from_secs),
        date: header(head, "date").map(str::to_owned),
        location: header(head, "location").map(str::to_owned),
        body,
        course,
    })
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
}

/// Of the first line, `HTTP/1.1 200 OK`.
fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The body behind `Transfer-Encoding: chunked` (RFC 9112, 7.1).
fn join_chunks(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = bytes.windows(2).position(|window| window == b"\r\n")?;
        let size = std::str::from_utf8(&bytes[..line])
            .ok()?
            .split(';')
            .next()?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        bytes = &bytes[line + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..size)?);
        bytes = bytes.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn an_answer_is_read_by_length_by_chunks_or_to_its_end() {
        let ok = Some((200, b"abcd".to_vec()));
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"), ok);
        assert_eq!(
            body(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
            ),
            ok
        );
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nabcd"), ok);
        assert_eq!(
            body("HTTP/1.1 204 No Content\r\n\r\n"),
            Some((204, Vec::new()))
        );
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            "HTTP/1.1 2",
            "HTTP/2 200\r\n\r\n",
            "",
        ] {
            assert_eq!(body(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_answer_that_says_where_it_ends_is_not_waited_for_any_longer() {
        for (text, whole) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", true),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na", false),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
                true,
            ),
            ("HTTP/1.0 200 OK\r\n\r\na", false),
            ("HTTP/1.1 200 OK\r\n", false),
        ] {
            assert_eq!(is_whole(text.as_bytes()), whole, "{text:?}");
        }
    }

    #[test]
    fn a_token_with_a_line_break_never_becomes_a_header() {
        let url = "http://127.0.0.1".parse().unwrap();
        for token in ["", "a\r\nX: y", "a b", "ä"] {
            let error = head(&url, &Request::get("/v1/me").bearer(Some(token))).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{token:?}");
        }
    }

    fn body(text: &str) -> Option<(u16, Vec<u8>)> {
        let course = Course {
            from: ([127, 0, 0, 1], 1).into(),
            connect: Duration::ZERO,
            tls: None,
            total: Duration::ZERO,
        };
        parse(text.as_bytes(), course).map(|answer| (answer.status, answer.body))
    }
}
