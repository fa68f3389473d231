//! As much of HTTP/1.1 (RFC 9112) as one small JSON call needs: one request, one answer, close.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

use dreamcatcher_proto::{Error, ErrorCode};

/// Largest answer: a list of a thousand relays fits several times.
const ANSWER_BYTES_MAX: u64 = 1_048_576;
/// To reach one address of the service.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The whole call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// `http://host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    /// Host and port, as in the header `Host`.
    authority: String,
    /// Without a slash at its end.
    path: String,
}

impl FromStr for Url {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let message = format!("auth url {text:?} {why}; give http://host[:port]");
            Error::new(ErrorCode::InvalidArgument, message)
        };
        if text.starts_with("https://") {
            return Err(wrong(
                "asks for TLS, which this small client does not speak",
            ));
        }
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| wrong("does not begin with http://"))?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '?' | '#');
        if authority.is_empty() || !rest.chars().all(plain) {
            return Err(wrong("has no host, or characters that do not belong there"));
        }
        Ok(Self {
            authority: authority.to_owned(),
            path: path.trim_end_matches('/').to_owned(),
        })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.path)
    }
}

impl Url {
    fn addresses(&self) -> io::Result<impl Iterator<Item = SocketAddr>> {
        let port_is_given = self.authority.rfind(':') > self.authority.rfind(']');
        let port = if port_is_given { "" } else { ":80" };
        format!("{}{port}", self.authority).to_socket_addrs()
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Calls `route`, such as `GET /v1/relays`, with a JSON body if there is one.
pub(super) fn call(url: &Url, route: &str, body: Option<&str>) -> Result<Answer, Error> {
    let bytes = exchange(url, route, body).map_err(|error| {
        let late = matches!(
            error.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock
        );
        let code = if late {
            ErrorCode::TimedOut
        } else {
            ErrorCode::ConnectionLost
        };
        Error::new(
            code,
            format!("the auth service at {url} cannot be reached: {error}"),
        )
    })?;
    parse(&bytes).ok_or_else(|| {
        Error::new(
            ErrorCode::ConnectionLost,
            format!("what answers at {url} is not an HTTP service"),
        )
    })
}

fn exchange(url: &Url, route: &str, body: Option<&str>) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + CALL_TIMEOUT;
    let mut stream = connect(url)?;
    stream.write_all(request(url, route, body).as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16_384];
    while (answer.len() as u64) < ANSWER_BYTES_MAX && !is_whole(&answer) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if is_whole(&answer) {
        return Ok(answer);
    }
    Err(io::Error::other(format!(
        "the answer has more than {ANSWER_BYTES_MAX} bytes"
    )))
}

fn connect(url: &Url) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in url.addresses()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn request(url: &Url, route: &str, body: Option<&str>) -> String {
    let (method, path) = route.split_once(' ').unwrap_or(("GET", route));
    let Url {
        authority,
        path: prefix,
    } = url;
    let head = format!(
        "{method} {prefix}{path} HTTP/1.1\r\nHost: {authority}\r\nAccept: application/json\r\nConnection: close\r\n"
    );
    match body {
        None => format!("{head}\r\n"),
        Some(body) => {
            let length = body.len();
            format!(
                "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        }
    }
}

/// Whether the answer says its length and has come that far; otherwise the end of the connection is
/// the end of the answer.
fn is_whole(bytes: &[u8]) -> bool {
    split(bytes).is_some_and(|(head, body)| {
        let length = header(head, "content-length").and_then(|length| length.parse().ok());
        length.is_some_and(|length: usize| body.len() >= length)
    })
}

fn parse(bytes: &[u8]) -> Option<Answer> {
    let (head, body) = split(bytes)?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    let body = match header(head, "content-length") {
        Some(length) => body.get(..length.parse::<usize>().ok()?)?.to_vec(),
        None if header(head, "transfer-encoding").is_some() => join_chunks(body)?,
        None => body.to_vec(),
    };
    Some(Answer { status, body })
}

fn split(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 4..]))
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
    fn an_https_address_is_refused_and_told_why() {
        let error = "https://auth.example".parse::<Url>().unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert!(error.message().contains("TLS"), "{error}");
    }

    #[test]
    fn an_address_is_http_host_and_port() {
        let url: Url = "http://127.0.0.1:7000/auth/".parse().unwrap();
        assert_eq!(url.to_string(), "http://127.0.0.1:7000/auth");
        let first = |text: &str| text.parse::<Url>().unwrap().addresses().unwrap().next();
        assert_eq!(first("http://127.0.0.1"), Some(([127, 0, 0, 1], 80).into()));
        assert_eq!(
            first("http://[::1]"),
            Some(([0, 0, 0, 0, 0, 0, 0, 1], 80).into())
        );
        assert_eq!(
            first("http://[::1]:7"),
            Some(([0, 0, 0, 0, 0, 0, 0, 1], 7).into())
        );
        for bad in [
            "",
            "auth:7000",
            "http://",
            "http:///x",
            "http://u@h",
            "http://h\r\nX: y",
            "http://h?x",
        ] {
            assert!(bad.parse::<Url>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_is_read_by_length_by_chunks_or_to_its_end() {
        let body = |text: &str| parse(text.as_bytes()).map(|answer| (answer.status, answer.body));
        let ok = Some((200, b"abcd".to_vec()));
        assert_eq!(body("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcd"), ok);
        assert_eq!(
            body(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n1\r\nd\r\n0\r\n\r\n"
            ),
            ok
        );
        assert_eq!(body("HTTP/1.0 200 OK\r\n\r\nabcd"), ok);
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc",
            "HTTP/1.1 2",
            "",
        ] {
            assert_eq!(body(bad), None, "{bad:?}");
        }
    }
}
