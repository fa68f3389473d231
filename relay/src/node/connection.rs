//! One QUIC connection, as frames.
//!
//! ```text
//!   send_reliable(lane, frame) ─▶ lane buffer ─▶ QUIC stream     one copy of the payload, here
//!   send_unreliable(frame) ─────▶ coalesced ───▶ QUIC datagram   several frames each
//!   streams, datagrams ─────────▶ FrameSplitter ─▶ Received::Frame
//! ```
//!
//! What a member sends beyond its [`Budget`] is dropped where it came in a datagram, and left unread
//! on a stream, so that QUIC's flow control holds the sender. What does not fit at once waits here; whoever owns the connection looks at its backlog and acts.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use dreamcatcher_proto::codec::{FrameSplitter, split_datagram};
use dreamcatcher_proto::frame::kind;
use dreamcatcher_proto::{Error, ErrorCode, limits};
use quinn_proto::{
    ConnectionError, Dir, Event, ReadError, ReadableError, SendDatagramError, StreamEvent,
    StreamId, VarInt, WriteError,
};

use super::budget::Budget;

/// An outgoing stream. The lane of a client's control stream is opened by the client; all others
/// are unidirectional and opened when first needed.
pub(super) type LaneId = usize;

/// The lane of control and Ordered frames.
pub(super) const CONTROL_LANE: LaneId = 0;
/// The lane of Reliable frames and of what does not fit into a datagram.
pub(super) const BULK_LANE: LaneId = 1;

/// How a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriage {
    /// A bidirectional stream: the control stream of a client.
    Control,
    /// A unidirectional stream.
    Bulk,
    Datagram,
}

/// What happened on a connection.
#[derive(Debug)]
pub(super) enum Received {
    Connected,
    Frame(Carriage, Bytes),
    /// The peer broke the rules of framing: the connection is to be closed with this.
    Broken(Error),
    Lost(ConnectionError),
}

/// One QUIC connection and what waits to be written to it.
pub(super) struct Connection {
    pub(super) quic: quinn_proto::Connection,
    lanes: Vec<Lane>,
    inbound: BTreeMap<StreamId, Inbound>,
    /// What the peer may send; nothing limits a link.
    budget: Option<Budget>,
    /// When to read on where the budget was used up.
    read_again_at: Option<Instant>,
    /// Since when streams have been waiting for the budget, without a break.
    over_budget_since: Option<Instant>,
    over_budget: OverBudget,
    /// Frames for the next datagram.
    datagram: BytesMut,
    /// Frames that found no room on their way and were dropped: Latest and Datagram only.
    dropped: u64,
    connected: bool,
    lost: bool,
}

/// An incoming stream.
#[derive(Default)]
struct Inbound {
    splitter: FrameSplitter,
    /// There may be more to read, once the budget allows.
    is_paused: bool,
}

/// What the budget did, since it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct OverBudget {
    /// Unreliable messages that were dropped.
    pub(super) dropped: u64,
    /// Times that reading a stream was put off.
    pub(super) pauses: u64,
}

#[derive(Default)]
struct Lane {
    stream: Option<StreamId>,
    filling: BytesMut,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
}

/// Unreliable frames that had to take the bulk lane are dropped while this much waits on it:
/// beyond, they would be stale when they arrive.
const STALE_AFTER_BYTES: usize = 65_536;

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("remote", &self.quic.remote_address())
            .field("backlog", &self.backlog())
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(quic: quinn_proto::Connection, budget: Option<Budget>) -> Self {
        Self {
            quic,
            lanes: Vec::new(),
            inbound: BTreeMap::new(),
            budget,
            read_again_at: None,
            over_budget_since: None,
            over_budget: OverBudget::default(),
            datagram: BytesMut::new(),
            dropped: 0,
            connected: false,
            lost: false,
        }
    }

    /// Bytes that wait for the peer or the path.
    pub(super) fn backlog(&self) -> usize {
        self.lanes
            .iter()
            .map(|lane| lane.waiting_bytes + lane.filling.len())
            .sum()
    }

    /// Frames dropped since this was last asked.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn take_over_budget(&mut self) -> OverBudget {
        std::mem::take(&mut self.over_budget)
    }

    /// When something is due: QUIC's timers, and reading on.
    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        let read_again_at = self.read_again_at;
        self.quic
            .poll_timeout()
            .into_iter()
            .chain(read_again_at)
            .min()
    }

    /// The peer's certificate, once the handshake is over.
    pub(super) fn peer_certificate(&self) -> Option<rustls::pki_types::CertificateDer<'static>> {
        let chain = self.quic.crypto_session().peer_identity()?;
        let chain = chain
            .downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
            .ok()?;
        chain.into_iter().next()
    }

    // ------------------------------------------------------------------------------------- reading

    /// Appends what happened since this was last asked.
    pub(super) fn poll(&mut self, now: Instant, out: &mut Vec<Received>) {
        if self.read_again_at.is_some_and(|at| at <= now) {
            self.read_on(now, out);
        }
        while let Some(event) = self.quic.poll() {
            match event {
                Event::HandshakeDataReady | Event::DatagramsUnblocked => {}
                Event::Connected => {
                    self.connected = true;
                    out.push(Received::Connected);
                }
                Event::ConnectionLost { reason } => {
                    self.lost = true;
                    out.push(Received::Lost(reason));
                }
                Event::DatagramReceived => self.read_datagrams(now, out),
                Event::Stream(event) => self.stream_event(event, now, out),
            }
        }
    }

    fn stream_event(&mut self, event: StreamEvent, now: Instant, out: &mut Vec<Received>) {
        match event {
            StreamEvent::Opened { dir } => {
                while let Some(stream) = self.quic.streams().accept(dir) {
                    self.opened(stream, now, out);
                }
            }
            StreamEvent::Readable { id } => self.read_stream(id, now, out),
            StreamEvent::Stopped { .. } => {
                let message = "a stream was stopped; close the connection instead";
                out.push(Received::Broken(Error::new(
                    ErrorCode::InvalidState,
                    message,
                )));
            }
            // Lanes are flushed after every pass.
            StreamEvent::Writable { .. }
            | StreamEvent::Finished { .. }
            | StreamEvent::Available { .. } => {}
        }
    }

    fn opened(&mut self, stream: StreamId, now: Instant, out: &mut Vec<Received>) {
        if stream.dir() == Dir::Bi {
            let lane = self.lane(CONTROL_LANE);
            if lane.stream.is_some() {
                let message = "a second bidirectional stream; the control stream is the only one";
                return out.push(Received::Broken(Error::new(
                    ErrorCode::InvalidState,
                    message,
                )));
            }
            lane.stream = Some(stream);
        }
        self.inbound.insert(stream, Inbound::default());
        self.read_stream(stream, now, out);
    }

    /// Reads the streams that had to wait for the budget.
    fn read_on(&mut self, now: Instant, out: &mut Vec<Received>) {
        self.read_again_at = None;
        let paused = self.inbound.iter().filter(|(_, inbound)| inbound.is_paused);
        let paused: Vec<StreamId> = paused.map(|(&stream, _)| stream).collect();
        for stream in paused {
            self.read_stream(stream, now, out);
        }
        if !self.inbound.values().any(|inbound| inbound.is_paused) {
            self.over_budget_since = None;
        }
    }

    /// Leaves the rest of a stream unread for now.
    fn pause(&mut self, now: Instant, out: &mut Vec<Received>) {
        let Some(budget) = &self.budget else { return };
        self.read_again_at = Some(budget.read_again_at(now));
        self.over_budget.pauses += 1;
        let since = *self.over_budget_since.get_or_insert(now);
        let limit = limits::MEMBER_OVER_BUDGET_MAX;
        if now.saturating_duration_since(since) >= limit {
            let message = format!(
                "more was sent than the rates of a member allow, for {} s without a break",
                limit.as_secs()
            );
            out.push(Received::Broken(Error::new(
                ErrorCode::RateLimited,
                message,
            )));
        }
    }

    fn read_stream(&mut self, stream: StreamId, now: Instant, out: &mut Vec<Received>) {
        let Some(Inbound {
            splitter,
            is_paused,
        }) = self.inbound.get_mut(&stream)
        else {
            return;
        };
        *is_paused = false;
        let budget = &mut self.budget;
        let carriage = if stream.dir() == Dir::Bi {
            Carriage::Control
        } else {
            Carriage::Bulk
        };
        let mut recv = self.quic.recv_stream(stream);
        let mut chunks = match recv.read(true) {
            Ok(chunks) => chunks,
            Err(ReadableError::ClosedStream | ReadableError::IllegalOrderedRead) => return,
        };
        let ended = loop {
            let has_room =
                |budget: &Option<Budget>| budget.as_ref().is_none_or(|budget| budget.has_room(now));
            // First what was read before and had to wait.
            while has_room(budget) {
                match splitter.next_frame() {
                    Ok(Some(frame)) => {
                        if let Some(budget) = budget
                            && frame.first() == Some(&kind::PUBLISH)
                        {
                            budget.take(frame.len(), now);
                        }
                        out.push(Received::Frame(carriage, frame));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        let _ = chunks.finalize();
                        self.inbound.remove(&stream);
                        return out.push(Received::Broken(error));
                    }
                }
            }
            if !has_room(budget) {
                *is_paused = true;
                let _ = chunks.finalize();
                return self.pause(now, out);
            }
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => splitter.push(chunk.bytes),
                Ok(None) if carriage == Carriage::Control => {
                    let message = "the control stream ended; close the connection instead";
                    let ended = Error::new(ErrorCode::InvalidState, message);
                    break Some(splitter.finish().and(Err(ended)));
                }
                Ok(None) => break Some(splitter.finish()),
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(_)) => {
                    let message = "a stream was reset; close the connection instead";
                    break Some(Err(Error::new(ErrorCode::InvalidState, message)));
                }
            }
        };
        let _ = chunks.finalize();
        if let Some(end) = ended {
            self.inbound.remove(&stream);
            if let Err(error) = end {
                out.push(Received::Broken(error));
            }
        }
    }

    fn read_datagrams(&mut self, now: Instant, out: &mut Vec<Received>) {
        while let Some(datagram) = self.quic.datagrams().recv() {
            for frame in split_datagram(datagram) {
                if let (Ok(frame), Some(budget)) = (&frame, &mut self.budget)
                    && frame.first() == Some(&kind::PUBLISH)
                    && !budget.take_unreliable(frame.len(), now)
                {
                    self.over_budget.dropped += 1;
                    continue;
                }
                out.push(match frame {
                    Ok(frame) => Received::Frame(Carriage::Datagram, frame),
                    Err(error) => Received::Broken(error),
                });
            }
        }
    }

    // ------------------------------------------------------------------------------------- writing

    /// Queues a frame for a lane; `encode` appends it behind its length prefix.
    pub(super) fn send_reliable(&mut self, lane: LaneId, encode: impl FnOnce(&mut BytesMut)) {
        encode(&mut self.lane(lane).filling);
    }

    /// Queues a frame for a datagram, or for the bulk lane if it does not fit into one.
    pub(super) fn send_unreliable(&mut self, bulk: LaneId, encode: impl FnOnce(&mut BytesMut)) {
        let max = self.quic.datagrams().max_size().unwrap_or(0);
        let start = self.datagram.len();
        encode(&mut self.datagram);
        if self.datagram.len() <= max {
            return;
        }
        let frame = self.datagram.split_off(start);
        self.flush_datagram();
        if frame.len() <= max {
            self.datagram = frame;
        } else if self.backlog() < STALE_AFTER_BYTES {
            self.lane(bulk).filling.extend_from_slice(&frame);
        } else {
            self.dropped += 1;
        }
    }

    /// Hands to QUIC what it takes.
    pub(super) fn flush(&mut self) {
        if !self.connected || self.lost {
            return;
        }
        self.flush_datagram();
        for lane in 0..self.lanes.len() {
            self.flush_lane(lane);
        }
    }

    fn flush_datagram(&mut self) {
        if self.datagram.is_empty() {
            return;
        }
        let datagram = self.datagram.split().freeze();
        // QUIC drops the oldest datagrams when its own buffer is full: newer ones supersede them.
        match self.quic.datagrams().send(datagram, true) {
            Ok(()) => {}
            Err(
                SendDatagramError::UnsupportedByPeer
                | SendDatagramError::Disabled
                | SendDatagramError::TooLarge
                | SendDatagramError::Blocked(_),
            ) => self.dropped += 1,
        }
    }

    fn flush_lane(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else {
            return;
        };
        if !lane.filling.is_empty() {
            lane.waiting_bytes += lane.filling.len();
            lane.waiting.push_back(lane.filling.split().freeze());
        }
        if lane.waiting.is_empty() {
            return;
        }
        let Some(stream) = lane.stream.or_else(|| self.quic.streams().open(Dir::Uni)) else {
            return;
        };
        lane.stream = Some(stream);
        let mut send = self.quic.send_stream(stream);
        while let Some(chunk) = lane.waiting.front_mut() {
            match send.write_chunks(std::slice::from_mut(chunk)) {
                Ok(written) => {
                    lane.waiting_bytes -= written.bytes;
                    if written.chunks == 0 {
                        break;
                    }
                    lane.waiting.pop_front();
                }
                Err(WriteError::Blocked) => break,
                // The stream's end is reported as an event of its own.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    lane.waiting.clear();
                    lane.waiting_bytes = 0;
                }
            }
        }
    }

    fn lane(&mut self, id: LaneId) -> &mut Lane {
        if self.lanes.len() <= id {
            self.lanes.resize_with(id + 1, Lane::default);
        }
        &mut self.lanes[id]
    }

    /// Closes with an error code of ours; the text is its message.
    pub(super) fn close(&mut self, error: &Error, now: Instant) {
        self.flush();
        let reason = Bytes::copy_from_slice(clip(error.message()).as_bytes());
        self.quic.close(
            now,
            VarInt::from_u32(u32::from(error.code() as u16)),
            reason,
        );
    }
}

/// As much of a reason as fits beside the rest of a closing packet.
fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(512)]
}

/// Why a connection ended, as one of our codes.
pub(super) fn cause(reason: &ConnectionError) -> ErrorCode {
    match reason {
        ConnectionError::ApplicationClosed(close) => u16::try_from(close.error_code.into_inner())
            .ok()
            .and_then(ErrorCode::from_u16)
            .unwrap_or(ErrorCode::ConnectionLost),
        ConnectionError::LocallyClosed => ErrorCode::Ok,
        ConnectionError::VersionMismatch => ErrorCode::ProtocolVersion,
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::CidsExhausted => ErrorCode::ConnectionLost,
    }
}

/// As [`cause`], of a link: a TLS failure (RFC 9001, 4.8) means that the ends do not share a cluster
/// key, since its CA is all that either trusts.
pub(super) fn link_cause(reason: &ConnectionError) -> ErrorCode {
    let code = match reason {
        ConnectionError::TransportError(error) => error.code,
        ConnectionError::ConnectionClosed(close) => close.error_code,
        ConnectionError::ApplicationClosed(_)
        | ConnectionError::LocallyClosed
        | ConnectionError::VersionMismatch
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::CidsExhausted => return cause(reason),
    };
    if (0x100..0x200).contains(&u64::from(code)) {
        ErrorCode::WrongClusterKey
    } else {
        cause(reason)
    }
}
