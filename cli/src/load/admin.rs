//! What relays say of their own work: the CPU time of each node, from the `/metrics` of their admin
//! addresses (docs/metrics.md).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use dreamcatcher_proto::{Error, ErrorCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A relay on the same network answers at once.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Largest answer: a relay of 256 nodes says less than half of it.
const ANSWER_BYTES_MAX: u64 = 4 * 1_024 * 1_024;
const CPU: &str = "dreamcatcher_cpu_seconds";

/// CPU time by node.
pub(super) type Cpu = BTreeMap<String, Duration>;

/// The CPU time that each node of these relays used since its start. `ConnectionLost` or `TimedOut`
/// names the relay that did not answer.
pub(super) async fn cpu(admins: &[SocketAddr]) -> Result<Cpu, Error> {
    let mut cpu = Cpu::new();
    for admin in admins {
        let asked = tokio::time::timeout(ANSWER_WITHIN, metrics(*admin)).await;
        let text = match asked {
            Ok(Ok(text)) => text,
            Ok(Err(error)) => {
                let message = format!("--admin {admin} does not answer: {error}");
                return Err(Error::new(ErrorCode::ConnectionLost, message));
            }
            Err(_) => {
                let message = format!("--admin {admin} did not answer within {ANSWER_WITHIN:?}");
                return Err(Error::new(ErrorCode::TimedOut, message));
            }
        };
        let of_relay = read(&text);
        if of_relay.is_empty() {
            let message = format!(
                "what answers at --admin {admin} says nothing of {CPU}: is it a relay's admin address?"
            );
            return Err(Error::new(ErrorCode::ConnectionLost, message));
        }
        cpu.extend(of_relay);
    }
    Ok(cpu)
}

/// One request, one answer (RFC 9112): the server closes after it.
async fn metrics(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut answer)
        .await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Lines such as `dreamcatcher_cpu_seconds{node="relay-1-0"} 1.25` (the Prometheus text format).
fn read(text: &str) -> Cpu {
    let line = |line: &str| {
        let (labels, value) = line.strip_prefix(CPU)?.strip_prefix('{')?.split_once('}')?;
        let node = labels
            .split(',')
            .find_map(|label| label.strip_prefix("node=\"")?.strip_suffix('"'))?;
        let seconds: f64 = value.trim().parse().ok()?;
        let time = Duration::try_from_secs_f64(seconds).ok()?;
        Some((node.to_owned(), time))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn the_cpu_time_of_each_node_is_read_and_the_rest_is_left_alone() {
        let text = "HTTP/1.1 200 OK\r\n\r\n# TYPE dreamcatcher_cpu_seconds gauge\n\
                    dreamcatcher_cpu_seconds{node=\"eu-1-0\"} 1.25\n\
                    dreamcatcher_cpu_seconds{node=\"eu-1-1\"} 3\n\
                    dreamcatcher_cpu_seconds{node=\"eu-1-2\"} NaN\n\
                    dreamcatcher_clients{node=\"eu-1-0\"} 7\n";
        let expected = [("eu-1-0", 1_250), ("eu-1-1", 3_000)];
        let expected = expected.map(|(node, ms)| (node.to_owned(), Duration::from_millis(ms)));
        assert_eq!(read(text), Cpu::from(expected));
    }

    #[tokio::test]
    async fn what_is_not_a_relays_admin_address_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answering = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 404 No\r\n\r\n").await.unwrap();
        });
        let error = cpu(&[address]).await.unwrap_err();
        assert!(error.message().contains(&address.to_string()), "{error}");
        answering.await.unwrap();
        let error = cpu(&[address]).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConnectionLost, "{error}");
    }
}
