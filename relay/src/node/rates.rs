//! How often one user may ask for what costs more than a message: a new session, a seat.
//!
//! The generic cell rate algorithm (ITU-T I.371): one instant per user and kind, no refilling.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use dreamcatcher_proto::control::{ClientMessage, Failure, RelayMessage};
use dreamcatcher_proto::frame::ClientFrame;
use dreamcatcher_proto::{Error, ErrorCode, UserId, limits};

/// Users who asked for something lately.
#[derive(Debug, Default)]
pub(super) struct Rates {
    users: BTreeMap<UserId, User>,
}

/// Until when each kind is used up.
#[derive(Clone, Copy, Debug)]
struct User {
    create: Instant,
    join: Instant,
}

/// Users remembered before those who may ask again anyway are forgotten.
const USERS_MAX: usize = 65_536;

impl Rates {
    /// The refusal, if the frame asks for more than the user may.
    pub(super) fn refusal(
        &mut self,
        user: UserId,
        frame: &ClientFrame,
        now: Instant,
    ) -> Option<RelayMessage> {
        let (request, what, every, burst) = match frame {
            ClientFrame::Control(ClientMessage::Create { request, .. }) => (
                *request,
                "create",
                limits::CREATE_EVERY,
                limits::CREATE_BURST,
            ),
            ClientFrame::Control(ClientMessage::Join { request, .. }) => {
                (*request, "join", limits::JOIN_EVERY, limits::JOIN_BURST)
            }
            ClientFrame::Control(
                ClientMessage::Hello { .. }
                | ClientMessage::Leave { .. }
                | ClientMessage::Ping { .. }
                | ClientMessage::Refused { .. },
            )
            | ClientFrame::Publish(_)
            | ClientFrame::Ack(_) => return None,
        };
        if self.users.len() >= USERS_MAX {
            self.users
                .retain(|_, user| user.create > now || user.join > now);
        }
        let user = self.users.entry(user).or_insert(User {
            create: now,
            join: now,
        });
        let used_until = if what == "create" {
            &mut user.create
        } else {
            &mut user.join
        };
        let retry_after = take(used_until, every, burst, now)?;
        let message = format!(
            "one user may {what} every {} s; try again in {} ms",
            every.as_secs(),
            retry_after.as_millis()
        );
        let error = Error::new(ErrorCode::RateLimited, message);
        Some(RelayMessage::Failed {
            request,
            failure: Failure { error, retry_after },
        })
    }
}

/// Takes one of `burst`, of which one comes back `every` so often; or says when there is one.
fn take(used_until: &mut Instant, every: Duration, burst: u32, now: Instant) -> Option<Duration> {
    let used = used_until.saturating_duration_since(now);
    let room = every * (burst - 1);
    if used > room {
        return Some(used - room);
    }
    *used_until = now + used + every;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_granted_then_one_at_a_time_and_each_user_counts_alone() {
        let now = Instant::now();
        let mut rates = Rates::default();
        let create = ClientFrame::Control(ClientMessage::Create {
            request: 7,
            options: Default::default(),
        });
        let mut asks = |user, at| rates.refusal(UserId([user; 16]), &create, at);
        for _ in 0..limits::CREATE_BURST {
            assert_eq!(asks(1, now), None);
        }
        let Some(RelayMessage::Failed {
            request: 7,
            failure,
        }) = asks(1, now)
        else {
            panic!("not refused");
        };
        assert_eq!(failure.error.code(), ErrorCode::RateLimited);
        assert_eq!(failure.retry_after, limits::CREATE_EVERY);
        assert_eq!(asks(2, now), None);
        let later = now + failure.retry_after;
        assert_eq!(asks(1, later), None);
        assert!(asks(1, later).is_some());
    }
}
