//! What a bot writes into each message, so that whoever gets it can tell whether it should have.

use std::time::Duration;

/// Bytes of every bot's message: a position with a velocity, an animation state and some more.
pub(crate) const PAYLOAD_BYTES: usize = 64;

/// One message's marks.
///
/// ```text
///  0        8        16      18      20       24        64
///  session  sent_ns  sender  spare   number   filler
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which session it was sent to.
    pub(crate) session: u64,
    /// When it was sent: time since the start of the fleet's clock.
    pub(crate) sent: Duration,
    /// Which of the session's bots sent it, from 0.
    pub(crate) sender: u16,
    /// The sender's count of its messages in this delivery mode, from 1.
    pub(crate) number: u32,
}

impl Stamp {
    pub(crate) fn payload(&self) -> [u8; PAYLOAD_BYTES] {
        let sent_ns = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        let mut payload = [0; PAYLOAD_BYTES];
        payload[..8].copy_from_slice(&self.session.to_be_bytes());
        payload[8..16].copy_from_slice(&sent_ns.to_be_bytes());
        payload[16..18].copy_from_slice(&self.sender.to_be_bytes());
        payload[20..24].copy_from_slice(&self.number.to_be_bytes());
        payload
    }

    /// The stamp of a message, unless it is not one of a bot, or was altered on its way.
    pub(crate) fn read(payload: &[u8]) -> Option<Self> {
        let (session, rest) = payload.split_first_chunk()?;
        let (sent_ns, rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (_spare, rest) = rest.split_first_chunk::<2>()?;
        let (number, _) = rest.split_first_chunk()?;
        let stamp = Self {
            session: u64::from_be_bytes(*session),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent_ns)),
            sender: u16::from_be_bytes(*sender),
            number: u32::from_be_bytes(*number),
        };
        (stamp.payload() == *payload).then_some(stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_and_an_altered_one_does_not() {
        let stamp = Stamp {
            session: 7,
            sent: Duration::from_nanos(1_234_567_890),
            sender: 3,
            number: 41,
        };
        let mut payload = stamp.payload();
        assert_eq!(Stamp::read(&payload), Some(stamp));
        assert_eq!(Stamp::read(&payload[..63]), None);
        assert_eq!(Stamp::read(b""), None);
        payload[60] = 1;
        assert_eq!(Stamp::read(&payload), None);
    }
}
