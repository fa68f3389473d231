//! What a bot writes into each message, so that whoever gets it can tell whether it should have.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of a stamp: the smallest message that can be judged.
pub(crate) const STAMP_BYTES: usize = 24;

/// One message's marks.
///
/// ```text
///  0        8        16      18      20       24
///  session  sent_ns  sender  spare   number   filler …
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Which session it was sent to.
    pub(crate) session: u64,
    /// When it was to be sent: time since the start of the fleet's clock.
    pub(crate) sent: Duration,
    /// Which of the session's bots sent it, from 0.
    pub(crate) sender: u16,
    /// The sender's count of its messages in this delivery mode, from 1.
    pub(crate) number: u32,
}

impl Stamp {
    /// A message of so many bytes, at least [`STAMP_BYTES`].
    pub(crate) fn payload(&self, bytes: usize) -> Bytes {
        let mut payload = BytesMut::with_capacity(bytes.max(STAMP_BYTES));
        payload.put_slice(&self.marks());
        payload.resize(bytes.max(STAMP_BYTES), 0);
        payload.freeze()
    }

    fn marks(&self) -> [u8; STAMP_BYTES] {
        let sent_ns = u64::try_from(self.sent.as_nanos()).unwrap_or(u64::MAX);
        let mut marks = [0; STAMP_BYTES];
        marks[..8].copy_from_slice(&self.session.to_be_bytes());
        marks[8..16].copy_from_slice(&sent_ns.to_be_bytes());
        marks[16..18].copy_from_slice(&self.sender.to_be_bytes());
        marks[20..].copy_from_slice(&self.number.to_be_bytes());
        marks
    }

    /// The stamp of a message of so many bytes, unless it is not one of a bot, or was altered on its
    /// way.
    pub(crate) fn read(payload: &[u8], bytes: usize) -> Option<Self> {
        let (marks, filler) = payload.split_first_chunk::<STAMP_BYTES>()?;
        let (session, rest) = marks.split_first_chunk()?;
        let (sent_ns, rest) = rest.split_first_chunk()?;
        let (sender, rest) = rest.split_first_chunk()?;
        let (_spare, number) = rest.split_first_chunk::<2>()?;
        let stamp = Self {
            session: u64::from_be_bytes(*session),
            sent: Duration::from_nanos(u64::from_be_bytes(*sent_ns)),
            sender: u16::from_be_bytes(*sender),
            number: u32::from_be_bytes(*number.first_chunk()?),
        };
        let is_whole = payload.len() == bytes && filler.iter().all(|byte| *byte == 0);
        (is_whole && stamp.marks() == *marks).then_some(stamp)
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
        for bytes in [STAMP_BYTES, 64, 65_536] {
            let mut payload = stamp.payload(bytes).to_vec();
            assert_eq!(payload.len(), bytes);
            assert_eq!(Stamp::read(&payload, bytes), Some(stamp));
            assert_eq!(Stamp::read(&payload, bytes + 1), None);
            assert_eq!(Stamp::read(&payload[..bytes - 1], bytes), None);
            for at in [18, bytes - 1] {
                payload[at] ^= 1;
                let read = Stamp::read(&payload, bytes);
                assert_ne!(read, Some(stamp), "byte {at} of {bytes}");
                payload[at] ^= 1;
            }
        }
        assert_eq!(Stamp::read(b"", 0), None);
    }
}
