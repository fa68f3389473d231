//! The data frames: messages of the game between client, gateway and owner.
//!
//! ```text
//!   client ──Publish──▶ gateway ──Forward──▶ owner
//!   client ◀─Deliver──  gateway ◀──Fanout──  owner       (one Fanout per gateway)
//!          ◀──Skip────
//!          ───Ack────▶          ───────────▶
//! ```
//!
//! The payload is sliced out of the packet that brought it and never looked at.

use bytes::{BufMut, Bytes};

use crate::codec::Reader;
use crate::error::{Error, ErrorCode};
use crate::id::{Epoch, Incarnation, Index, Mid, PeerId, Seq, SessionId};
use crate::limits;

/// The first byte of each frame.
pub mod kind {
    pub const CONTROL: u8 = 0x01;
    pub const LINK_CONTROL: u8 = 0x02;
    pub const PUBLISH: u8 = 0x10;
    pub const DELIVER: u8 = 0x11;
    pub const ACK: u8 = 0x12;
    pub const SKIP: u8 = 0x13;
    pub const FORWARD: u8 = 0x20;
    pub const FANOUT: u8 = 0x21;
    pub const LINK_ACK: u8 = 0x22;
    pub const STORE: u8 = 0x23;
    pub const STORED: u8 = 0x24;
}

/// What a message may expect of the way: see `docs/protocol.md`, "Delivery modes".
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Mode {
    /// One total order per session, exactly once.
    Ordered = 0,
    /// In order per sender; lost only when a relay on the path fails, and then said so.
    Reliable = 1,
    /// The newest per (sender, key) wins; never older.
    Latest = 2,
    /// As it comes, if it comes.
    Datagram = 3,
}

impl Mode {
    pub const ALL: [Self; 4] = [Self::Ordered, Self::Reliable, Self::Latest, Self::Datagram];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Reliable => "reliable",
            Self::Latest => "latest",
            Self::Datagram => "datagram",
        }
    }

    /// Whether frames of this mode prefer a QUIC datagram to a stream.
    #[must_use]
    pub const fn is_unreliable(self) -> bool {
        matches!(self, Self::Latest | Self::Datagram)
    }

    fn read(reader: &mut Reader) -> Result<Self, Error> {
        let byte = reader.u8("mode")?;
        Self::ALL
            .get(usize::from(byte))
            .copied()
            .ok_or_else(|| malformed(format!("mode {byte} is not 0–3")))
    }
}

/// Whom a message is for. The sender is among `All` and may be among `Peers`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    All,
    Others,
    Peer(PeerId),
    Peers(Vec<PeerId>),
}

impl Target {
    /// Whether `peer` is to receive a message from `sender`.
    #[must_use]
    pub fn includes(&self, peer: PeerId, sender: PeerId) -> bool {
        match self {
            Self::All => true,
            Self::Others => peer != sender,
            Self::Peer(only) => peer == *only,
            Self::Peers(list) => list.contains(&peer),
        }
    }

    /// The peers that it names.
    #[must_use]
    pub fn named(&self) -> &[PeerId] {
        match self {
            Self::All | Self::Others => &[],
            Self::Peer(only) => std::slice::from_ref(only),
            Self::Peers(list) => list,
        }
    }

    fn put(&self, out: &mut impl BufMut) {
        match self {
            Self::All => out.put_u8(0),
            Self::Others => out.put_u8(1),
            Self::Peer(peer) => {
                out.put_u8(3);
                out.put_u16(peer.0);
            }
            Self::Peers(peers) => {
                out.put_u8(4);
                out.put_u8(peers.len() as u8);
                peers.iter().for_each(|peer| out.put_u16(peer.0));
            }
        }
    }

    fn read(reader: &mut Reader) -> Result<Self, Error> {
        match reader.u8("target")? {
            0 => Ok(Self::All),
            1 => Ok(Self::Others),
            3 => Ok(Self::Peer(PeerId(reader.u16("target peer")?))),
            4 => {
                let count = usize::from(reader.u8("target count")?);
                if count == 0 || count > limits::TARGETS_MAX {
                    return Err(malformed(format!(
                        "{count} targets; 1–{} can be named",
                        limits::TARGETS_MAX
                    )));
                }
                (0..count)
                    .map(|_| reader.u16("target peer").map(PeerId))
                    .collect::<Result<_, _>>()
                    .map(Self::Peers)
            }
            other => Err(malformed(format!(
                "target kind {other} is not 0, 1, 3 or 4"
            ))),
        }
    }
}

/// What the sender of a message decides: everything but who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub mode: Mode,
    /// 0–15, for the game to tell kinds of traffic apart.
    pub channel: u8,
    /// Counts the sender's messages of this mode from 1.
    pub seq: Seq,
    pub target: Target,
    /// What a `Latest` message is the newest of; 0 in the other modes, where it is not on the wire.
    pub key: u16,
    pub payload: Bytes,
}

impl Message {
    /// Bytes that are not payload, at most.
    const HEADER_BYTES_MAX: usize = 1 + 1 + 4 + 2 + 2 * limits::TARGETS_MAX + 2;

    fn put(&self, out: &mut impl BufMut) {
        out.put_u8(self.mode as u8);
        out.put_u8(self.channel);
        out.put_u32(self.seq.0);
        self.target.put(out);
        if self.mode == Mode::Latest {
            out.put_u16(self.key);
        }
        out.put_slice(&self.payload);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let mode = Mode::read(&mut reader)?;
        let channel = reader.u8("channel")?;
        if channel >= limits::CHANNELS && channel != SESSION_CHANNEL {
            return Err(malformed(format!(
                "channel {channel} is not 0–{}",
                limits::CHANNELS - 1
            )));
        }
        let seq = Seq(reader.u32("seq")?);
        let target = Target::read(&mut reader)?;
        let key = if mode == Mode::Latest {
            reader.u16("key")?
        } else {
            0
        };
        let payload = payload(reader)?;
        Ok(Self {
            mode,
            channel,
            seq,
            target,
            key,
            payload,
        })
    }
}

/// The channel of entries that the session itself makes; their payload is a `SessionEvent`.
pub const SESSION_CHANNEL: u8 = 0xff;

/// Client → gateway: a message of the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    pub attachment: Attachment,
    pub message: Message,
}

/// Which join of a connection a frame belongs to, from 1: what still travels for a session that
/// the client has left cannot be taken for the next one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment(pub u16);

impl Publish {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::PUBLISH);
        out.put_u16(self.attachment.0);
        self.message.put(out);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let attachment = Attachment(reader.u16("attachment")?);
        let message = Message::read(reader)?;
        if message.channel == SESSION_CHANNEL {
            return Err(malformed(format!(
                "channel {SESSION_CHANNEL} is the session's own"
            )));
        }
        Ok(Self {
            attachment,
            message,
        })
    }
}

/// Where an Ordered message stands in its session's order.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    serde::Serialize,
    serde::Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Place {
    pub epoch: Epoch,
    pub index: Index,
}

/// Gateway → client: a message for this member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    pub attachment: Attachment,
    pub mid: Mid,
    pub mode: Mode,
    pub channel: u8,
    /// On the wire in mode Ordered only; zero in the others.
    pub place: Place,
    /// On the wire in mode Latest only; zero in the others.
    pub key: u16,
    pub payload: Bytes,
}

impl Deliver {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::DELIVER);
        out.put_u16(self.attachment.0);
        out.put_u8(self.mode as u8);
        out.put_u8(self.channel);
        put_mid(self.mid, out);
        match self.mode {
            Mode::Ordered => put_place(self.place, out),
            Mode::Latest => out.put_u16(self.key),
            Mode::Reliable | Mode::Datagram => {}
        }
        out.put_slice(&self.payload);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let attachment = Attachment(reader.u16("attachment")?);
        let mode = Mode::read(&mut reader)?;
        let channel = reader.u8("channel")?;
        let mid = read_mid(&mut reader)?;
        let mut place = Place::default();
        let mut key = 0;
        match mode {
            Mode::Ordered => place = read_place(&mut reader)?,
            Mode::Latest => key = reader.u16("key")?,
            Mode::Reliable | Mode::Datagram => {}
        }
        let payload = payload(reader)?;
        Ok(Self {
            attachment,
            mid,
            mode,
            channel,
            place,
            key,
            payload,
        })
    }
}

/// Gateway → client: an entry that is not for this member has taken this place. The sender of an
/// entry learns from its own `Skip` or `Deliver` that the entry is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    pub attachment: Attachment,
    pub mid: Mid,
    pub place: Place,
}

impl Skip {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::SKIP);
        out.put_u16(self.attachment.0);
        put_mid(self.mid, out);
        put_place(self.place, out);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let attachment = Attachment(reader.u16("attachment")?);
        let mid = read_mid(&mut reader)?;
        let place = read_place(&mut reader)?;
        reader.end()?;
        Ok(Self {
            attachment,
            mid,
            place,
        })
    }
}

/// Client → gateway: every entry up to `index` has reached the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub attachment: Attachment,
    pub index: Index,
}

impl Ack {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::ACK);
        out.put_u16(self.attachment.0);
        out.put_u64(self.index.0);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let attachment = Attachment(reader.u16("attachment")?);
        let index = Index(reader.u64("index")?);
        reader.end()?;
        Ok(Self { attachment, index })
    }
}

/// Gateway → owner: a member's message. The gateway stamps who sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    pub session: SessionId,
    /// The epoch that the gateway believes in; an owner of another one refuses the frame.
    pub epoch: Epoch,
    pub sender: PeerId,
    pub incarnation: Incarnation,
    pub message: Message,
}

impl Forward {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::FORWARD);
        out.put_slice(&self.session.0);
        out.put_u64(self.epoch.0);
        out.put_u16(self.sender.0);
        out.put_u16(self.incarnation.0);
        self.message.put(out);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        Ok(Self {
            session: SessionId(reader.array("session")?),
            epoch: Epoch(reader.u64("epoch")?),
            sender: PeerId(reader.u16("sender")?),
            incarnation: Incarnation(reader.u16("incarnation")?),
            message: Message::read(reader)?,
        })
    }
}

/// Owner → gateway: a message for those of the gateway's members whom `message.target` includes,
/// or for `only` one of them when a member is being caught up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fanout {
    pub session: SessionId,
    /// `index` is 0 unless the message is Ordered.
    pub place: Place,
    /// [`PeerId::SESSION`]: everyone.
    pub only: PeerId,
    pub sender: PeerId,
    pub incarnation: Incarnation,
    pub message: Message,
}

impl Fanout {
    #[must_use]
    pub const fn mid(&self) -> Mid {
        Mid {
            sender: self.sender,
            incarnation: self.incarnation,
            seq: self.message.seq,
        }
    }

    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::FANOUT);
        self.put_body(out);
    }

    fn put_body(&self, out: &mut impl BufMut) {
        out.put_slice(&self.session.0);
        put_place(self.place, out);
        out.put_u16(self.only.0);
        out.put_u16(self.sender.0);
        out.put_u16(self.incarnation.0);
        self.message.put(out);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        Ok(Self {
            session: SessionId(reader.array("session")?),
            place: read_place(&mut reader)?,
            only: PeerId(reader.u16("only")?),
            sender: PeerId(reader.u16("sender")?),
            incarnation: Incarnation(reader.u16("incarnation")?),
            message: Message::read(reader)?,
        })
    }
}

/// Gateway → owner: a member's [`Ack`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAck {
    pub session: SessionId,
    pub peer: PeerId,
    pub index: Index,
}

impl LinkAck {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::LINK_ACK);
        out.put_slice(&self.session.0);
        out.put_u16(self.peer.0);
        out.put_u64(self.index.0);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let session = SessionId(reader.array("session")?);
        let peer = PeerId(reader.u16("peer")?);
        let index = Index(reader.u64("index")?);
        reader.end()?;
        Ok(Self {
            session,
            peer,
            index,
        })
    }
}

/// Owner → standby: an entry to keep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// The owner's. The entry's own is lower where it was ordered by an owner before.
    pub epoch: Epoch,
    pub entry: Fanout,
}

impl Store {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::STORE);
        out.put_u64(self.epoch.0);
        self.entry.put_body(out);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        Ok(Self {
            epoch: Epoch(reader.u64("epoch")?),
            entry: Fanout::read(reader)?,
        })
    }
}

/// Standby → owner: every entry up to `index` is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub session: SessionId,
    pub epoch: Epoch,
    pub index: Index,
}

impl Stored {
    pub fn put(&self, out: &mut impl BufMut) {
        out.put_u8(kind::STORED);
        out.put_slice(&self.session.0);
        out.put_u64(self.epoch.0);
        out.put_u64(self.index.0);
    }

    fn read(mut reader: Reader) -> Result<Self, Error> {
        let stored = Self {
            session: SessionId(reader.array("session")?),
            epoch: Epoch(reader.u64("epoch")?),
            index: Index(reader.u64("index")?),
        };
        reader.end()?;
        Ok(stored)
    }
}

macro_rules! frame_enum {
    ($(#[$doc:meta])* $name:ident { $($kind:path => $variant:ident($body:ty)),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub enum $name {
            $($variant($body)),*
        }

        impl $name {
            /// Reads a frame whose length prefix has been taken off.
            pub fn decode(frame: Bytes) -> Result<Self, Error> {
                let mut reader = Reader::new(frame);
                match reader.u8("type")? {
                    $($kind => <$body>::read(reader).map(Self::$variant),)*
                    other => Err(Error::new(
                        ErrorCode::UnknownFrame,
                        format!("frame type {other:#04x} does not belong here"),
                    )),
                }
            }

            /// Appends type and body, without a length prefix.
            pub fn put(&self, out: &mut impl BufMut) {
                match self {
                    $(Self::$variant(body) => body.put(out)),*
                }
            }

            /// Appends the frame behind its length prefix.
            pub fn encode(&self, out: &mut bytes::BytesMut) {
                encode(out, |body| self.put(body));
            }
        }
    };
}

frame_enum! {
    /// Every frame that a client sends.
    ClientFrame {
        kind::CONTROL => Control(crate::control::ClientMessage),
        kind::PUBLISH => Publish(Publish),
        kind::ACK => Ack(Ack),
    }
}
frame_enum! {
    /// Every frame that a client receives.
    RelayFrame {
        kind::CONTROL => Control(crate::control::RelayMessage),
        kind::DELIVER => Deliver(Deliver),
        kind::SKIP => Skip(Skip),
    }
}
frame_enum! {
    /// Every frame between relays.
    LinkFrame {
        kind::LINK_CONTROL => Control(crate::control::LinkMessage),
        kind::FORWARD => Forward(Forward),
        kind::FANOUT => Fanout(Fanout),
        kind::LINK_ACK => Ack(LinkAck),
        kind::STORE => Store(Store),
        kind::STORED => Stored(Stored),
    }
}

/// Writes `body` behind its length. Two bytes are kept free for the length, which fits nearly
/// every frame; a longer one is moved once.
fn encode(out: &mut bytes::BytesMut, body: impl FnOnce(&mut bytes::BytesMut)) {
    let start = out.len();
    out.put_u16(0);
    body(out);
    let len = out.len() - start - 2;
    debug_assert!(len <= limits::FRAME_BYTES_MAX, "a frame of {len} bytes");
    if len < 0x4000 {
        out[start..start + 2].copy_from_slice(&(0x4000 | len as u16).to_be_bytes());
    } else {
        out.put_u16(0);
        out.copy_within(start + 2..start + 2 + len, start + 4);
        out[start..start + 4].copy_from_slice(&(0x8000_0000 | len as u32).to_be_bytes());
    }
}

const _: () = assert!(
    limits::PAYLOAD_BYTES_MAX + Message::HEADER_BYTES_MAX + 64 <= limits::FRAME_BYTES_MAX,
    "a frame holds the largest payload with the longest header"
);

fn put_mid(mid: Mid, out: &mut impl BufMut) {
    out.put_u16(mid.sender.0);
    out.put_u16(mid.incarnation.0);
    out.put_u32(mid.seq.0);
}

fn read_mid(reader: &mut Reader) -> Result<Mid, Error> {
    Ok(Mid {
        sender: PeerId(reader.u16("sender")?),
        incarnation: Incarnation(reader.u16("incarnation")?),
        seq: Seq(reader.u32("seq")?),
    })
}

fn put_place(place: Place, out: &mut impl BufMut) {
    out.put_u64(place.epoch.0);
    out.put_u64(place.index.0);
}

fn read_place(reader: &mut Reader) -> Result<Place, Error> {
    Ok(Place {
        epoch: Epoch(reader.u64("epoch")?),
        index: Index(reader.u64("index")?),
    })
}

fn payload(reader: Reader) -> Result<Bytes, Error> {
    let payload = reader.rest();
    if payload.len() > limits::PAYLOAD_BYTES_MAX {
        return Err(Error::new(
            ErrorCode::MessageTooLarge,
            format!(
                "{} bytes of payload; at most {} fit",
                payload.len(),
                limits::PAYLOAD_BYTES_MAX
            ),
        ));
    }
    Ok(payload)
}

fn malformed(message: String) -> Error {
    Error::new(ErrorCode::MalformedFrame, message)
}
