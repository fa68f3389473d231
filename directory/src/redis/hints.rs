//! What Redis tells by itself: changes through a channel, and that the connection has ended.

use std::convert::Infallible;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{broadcast, mpsc};

use super::connection::Lost;
use super::parse;
use crate::Hint;
use crate::record::Change;

/// What takes the pushes of one connection. It never waits: hints go to a queue that drops the
/// oldest, and of the connection's end one word is enough.
pub(super) fn listener(
    generation: u64,
    hints: broadcast::Sender<Hint>,
    lost: mpsc::Sender<Lost>,
) -> impl Fn(PushInfo) -> Result<(), Infallible> + Send + Sync + 'static {
    move |push| {
        if push.kind == PushKind::Message {
            if let Some(change) = change(&push.data) {
                // Fails only when nobody watches.
                let _ = hints.send(Hint::Changed(change));
            }
        } else if push.kind == PushKind::Disconnection {
            // Full: the end of this connection has been told.
            let _ = lost.try_send(Lost {
                generation,
                cause: "Redis closed the connection".to_owned(),
                redirect: None,
            });
        }
        Ok(())
    }
}

/// What a message says, if a relay wrote it: anything else is as if it had been lost, which the
/// regular read of all nodes makes up for.
fn change(message: &[Value]) -> Option<Change> {
    let [_channel, Value::BulkString(payload)] = message else {
        return None;
    };
    parse::read(payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::holder;

    #[test]
    fn only_a_well_formed_change_is_told() {
        let gone = Change::NodeGone(holder("a", 1));
        let json = serde_json::to_vec(&gone).unwrap_or_default();
        let message = |payload: &[u8]| {
            let words = ["{dreamcatcher}:hints".as_bytes(), payload];
            words.map(|word| Value::BulkString(word.to_vec()))
        };
        assert_eq!(change(&message(&json)), Some(gone));
        for garbage in [
            &b""[..],
            b"\xff\xfe",
            b"{}",
            b"{\"node_gone\":{\"node\":\"A\",\"boot\":\"0000000000000001\"}}",
            &[b'['; 100_000],
            &[b' '; 100_000],
        ] {
            assert_eq!(change(&message(garbage)), None);
        }
        assert_eq!(change(&[Value::Nil]), None);
    }
}
