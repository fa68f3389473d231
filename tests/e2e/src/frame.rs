//! Framing and data frames, as the page's offset tables have them.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::control::{ClientControl, RelayControl};

pub const CONTROL: u8 = 0x01;
pub const PUBLISH: u8 = 0x10;
pub const DELIVER: u8 = 0x11;
pub const ACK: u8 = 0x12;
pub const SKIP: u8 = 0x13;

/// The channel of what the session itself says.
pub const SESSION_CHANNEL: u8 = 255;

/// How a message is to travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    Ordered = 0,
    Reliable = 1,
    Latest = 2,
    Datagram = 3,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Ordered, Self::Reliable, Self::Latest, Self::Datagram];
}

/// Whom a message is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    All,
    Others,
    Peer(u16),
    Peers(Vec<u16>),
}

/// What a client sends.
#[derive(Clone, Debug)]
pub struct Publish {
    pub attachment: u16,
    pub mode: Mode,
    pub channel: u8,
    pub seq: u32,
    pub target: Target,
    pub key: u16,
    pub payload: Bytes,
}

impl Publish {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u8(PUBLISH);
        body.put_u16(self.attachment);
        body.put_u8(self.mode as u8);
        body.put_u8(self.channel);
        body.put_u32(self.seq);
        match &self.target {
            Target::All => body.put_u8(0),
            Target::Others => body.put_u8(1),
            Target::Peer(peer) => {
                body.put_u8(3);
                body.put_u16(*peer);
            }
            Target::Peers(peers) => {
                body.put_u8(4);
                body.put_u8(u8::try_from(peers.len()).expect("at most 128 targets"));
                peers.iter().for_each(|peer| body.put_u16(*peer));
            }
        }
        if self.mode == Mode::Latest {
            body.put_u16(self.key);
        }
        body.put_slice(&self.payload);
        framed(&body)
    }
}

#[must_use]
pub fn encode_ack(attachment: u16, index: u64) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(ACK);
    body.put_u16(attachment);
    body.put_u64(index);
    framed(&body)
}

#[must_use]
pub fn encode_control(message: &ClientControl) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(CONTROL);
    message
        .encode(&mut body)
        .expect("a growing buffer has room");
    framed(&body)
}

/// `body` behind its length, in the shortest form.
#[must_use]
pub fn framed(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    match body.len() {
        len @ 0..0x40 => out.put_u8(len as u8),
        len @ 0x40..0x4000 => out.put_u16(0x4000 | len as u16),
        len => out.put_u32(0x8000_0000 | len as u32),
    }
    out.put_slice(body);
    out.freeze()
}

/// The name of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mid {
    pub sender: u16,
    pub incarnation: u16,
    pub seq: u32,
}

/// What a relay sends.
#[derive(Clone, Debug)]
pub enum Frame {
    Control(RelayControl),
    Deliver(Deliver),
    Skip(Skip),
}

#[derive(Clone, Debug)]
pub struct Deliver {
    pub attachment: u16,
    pub mode: Mode,
    pub channel: u8,
    pub mid: Mid,
    pub epoch: u64,
    pub index: u64,
    pub key: u16,
    pub payload: Bytes,
}

#[derive(Clone, Copy, Debug)]
pub struct Skip {
    pub attachment: u16,
    pub mid: Mid,
    pub epoch: u64,
    pub index: u64,
}

impl Frame {
    /// Reads a frame without its length. A relay that breaks the page fails the test.
    #[must_use]
    pub fn decode(mut body: Bytes) -> Self {
        match body.get_u8() {
            CONTROL => Self::Control(RelayControl::decode(body).expect("a RelayControl")),
            DELIVER => {
                let attachment = body.get_u16();
                let mode = Mode::ALL[usize::from(body.get_u8())];
                let channel = body.get_u8();
                let mid = mid(&mut body);
                let (mut epoch, mut index, mut key) = (0, 0, 0);
                match mode {
                    Mode::Ordered => (epoch, index) = (body.get_u64(), body.get_u64()),
                    Mode::Latest => key = body.get_u16(),
                    Mode::Reliable | Mode::Datagram => {}
                }
                Self::Deliver(Deliver {
                    attachment,
                    mode,
                    channel,
                    mid,
                    epoch,
                    index,
                    key,
                    payload: body,
                })
            }
            SKIP => {
                let attachment = body.get_u16();
                let mid = mid(&mut body);
                let skip = Skip {
                    attachment,
                    mid,
                    epoch: body.get_u64(),
                    index: body.get_u64(),
                };
                assert!(!body.has_remaining(), "bytes after a SKIP");
                Self::Skip(skip)
            }
            other => panic!("a frame of type {other:#04x} from a relay"),
        }
    }
}

fn mid(body: &mut Bytes) -> Mid {
    Mid {
        sender: body.get_u16(),
        incarnation: body.get_u16(),
        seq: body.get_u32(),
    }
}

/// The next frame at the front of `bytes`, without its length; `None` until it is whole.
pub fn split(bytes: &mut BytesMut) -> Option<Bytes> {
    let first = *bytes.first()?;
    let prefix = 1_usize << (first >> 6);
    let head = bytes.get(..prefix)?;
    let value = head
        .iter()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let len = (value & (u64::MAX >> (66 - 8 * prefix))) as usize;
    if bytes.len() < prefix + len {
        return None;
    }
    bytes.advance(prefix);
    Some(bytes.split_to(len).freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_read_in_all_four_forms() {
        for prefix in [
            &[0x25][..],
            &[0x40, 0x25],
            &[0x80, 0, 0, 0x25],
            &[0xc0, 0, 0, 0, 0, 0, 0, 0x25],
        ] {
            let mut bytes = BytesMut::from(prefix);
            assert_eq!(split(&mut bytes.clone()), None);
            bytes.extend_from_slice(&[7; 40]);
            assert_eq!(split(&mut bytes), Some(Bytes::from_static(&[7; 37])));
            assert_eq!(bytes, [7; 3].as_slice());
        }
    }
}
