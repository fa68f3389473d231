//! One QUIC connection to one relay: frames out, frames in.
//!
//! ```text
//!   control   ⇄  bidirectional stream: control messages, Ordered
//!   bulk      ⇄  one unidirectional stream each way: Reliable, and what fits no datagram
//!   datagrams ⇄  Latest, Datagram; several frames in one
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use dreamcatcher_proto::codec::{FrameSplitter, split_datagram};
use dreamcatcher_proto::frame::{Attachment, ClientFrame, RelayFrame};
use dreamcatcher_proto::limits::{CLIENT_QUEUE_BYTES_MAX, IDLE_TIMEOUT, PING_AFTER};
use dreamcatcher_proto::member::Way;
use dreamcatcher_proto::{Error, ErrorCode};
use quinn_proto::{
    AckFrequencyConfig, Chunk, Connection, ConnectionError, ConnectionHandle, Dir, Endpoint, Event,
    IdleTimeout, ReadError, StreamEvent, StreamId, TransportConfig, TransportErrorCode, VarInt,
    WriteError,
};

/// Stream bytes that the relay may send ahead of the game: with a slow game, this much waits here
/// and the rest at the relay.
const STREAM_WINDOW_BYTES: u32 = 512 * 1_024;
/// The relay opens one stream; the others are room for a new one while an old one ends.
const RELAY_STREAMS_MAX: u32 = 4;
/// Unsent datagrams, oldest dropped first: a fifth of a second at 10 Mbit/s.
const DATAGRAM_BUFFER_BYTES: usize = 256 * 1_024;
/// Bytes taken off a stream at a time.
const CHUNK_BYTES_MAX: usize = 65_536;
/// What a round trip is taken for until one is measured: a lost first packet costs thrice this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Packets between two acknowledgements, and the longest that one waits, as asked of the relay: each
/// costs both ends a packet, and a gap is reported at once all the same.
const ACK_AFTER_PACKETS: u32 = 8;
const ACK_WITHIN: Duration = Duration::from_millis(20);
/// The code of TLS's alert `no_application_protocol` (RFC 7301, 3.2).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// QUIC as a client of this protocol speaks it.
pub(super) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_AFTER_PACKETS))
        .max_ack_delay(Some(ACK_WITHIN));
    transport
        .max_idle_timeout(IdleTimeout::try_from(IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(PING_AFTER))
        .initial_rtt(INITIAL_RTT)
        .ack_frequency_config(Some(acks))
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(RELAY_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(2 * STREAM_WINDOW_BYTES))
        .send_window(2 * u64::from(STREAM_WINDOW_BYTES))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    transport
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) handle: ConnectionHandle,
    pub(super) connection: Connection,
    /// When the last packet came.
    pub(super) heard: Instant,
    control_out: SendHalf,
    bulk_out: SendHalf,
    /// Frames that go into the next datagram.
    datagram_out: BytesMut,
    scratch: BytesMut,
    control_in: ReceiveHalf,
    bulk_in: ReceiveHalf,
    /// A frame of the bulk stream that came before the `Joined` that announces it.
    held: Option<RelayFrame>,
    datagram_in: VecDeque<Bytes>,
    dropped: u64,
}

#[derive(Debug, Default)]
struct SendHalf {
    stream: Option<StreamId>,
    bytes: BytesMut,
}

#[derive(Debug, Default)]
struct ReceiveHalf {
    stream: Option<StreamId>,
    readable: bool,
    frames: FrameSplitter,
}

/// What happened to the connection itself.
#[derive(Debug)]
pub(super) enum LinkEvent {
    Up,
    Lost(Error),
}

impl Link {
    pub(super) fn new(handle: ConnectionHandle, connection: Connection, now: Instant) -> Self {
        Self {
            handle,
            connection,
            heard: now,
            control_out: SendHalf::default(),
            bulk_out: SendHalf::default(),
            datagram_out: BytesMut::new(),
            scratch: BytesMut::new(),
            control_in: ReceiveHalf::default(),
            bulk_in: ReceiveHalf::default(),
            held: None,
            datagram_in: VecDeque::new(),
            dropped: 0,
        }
    }

    /// Unreliable frames that were too large for a datagram while the bulk stream was full.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether another Reliable message can be taken on.
    pub(super) fn has_room(&self) -> bool {
        self.bulk_out.bytes.len() < CLIENT_QUEUE_BYTES_MAX
    }

    // ----------------------------------------------------------------------------------- events

    /// The next thing that happened to the connection. Those of streams are noted on the way.
    pub(super) fn poll_event(&mut self, endpoint: &mut Endpoint) -> Option<LinkEvent> {
        exchange(&mut self.connection, self.handle, endpoint);
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    self.control_out.stream = self.connection.streams().open(Dir::Bi);
                    self.control_in.stream = self.control_out.stream;
                    return Some(LinkEvent::Up);
                }
                Event::ConnectionLost { reason } => return Some(LinkEvent::Lost(lost(&reason))),
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.control_in.readable |= self.control_in.stream == Some(id);
                    self.bulk_in.readable |= self.bulk_in.stream == Some(id);
                }
                Event::Stream(StreamEvent::Opened { .. }) => self.accept(),
                // Writing is tried at each pass, and datagrams are read at each pass.
                Event::Stream(
                    StreamEvent::Writable { .. }
                    | StreamEvent::Finished { .. }
                    | StreamEvent::Stopped { .. }
                    | StreamEvent::Available { .. },
                )
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        None
    }

    fn accept(&mut self) {
        if self.bulk_in.stream.is_none() {
            self.bulk_in.stream = self.connection.streams().accept(Dir::Uni);
            self.bulk_in.readable = self.bulk_in.stream.is_some();
        }
    }

    // ---------------------------------------------------------------------------------- sending

    /// Takes a frame on; [`Self::flush`] sends it.
    pub(super) fn send(&mut self, way: Way, frame: &ClientFrame) {
        match way {
            Way::Control => frame.encode(&mut self.control_out.bytes),
            Way::Bulk => frame.encode(&mut self.bulk_out.bytes),
            Way::Datagram => self.send_datagram(frame),
        }
    }

    fn send_datagram(&mut self, frame: &ClientFrame) {
        self.scratch.clear();
        frame.encode(&mut self.scratch);
        let room = self.connection.datagrams().max_size().unwrap_or(0);
        if self.scratch.len() > room {
            if self.has_room() {
                self.bulk_out.bytes.extend_from_slice(&self.scratch);
            } else {
                self.dropped += 1;
            }
            return;
        }
        if self.datagram_out.len() + self.scratch.len() > room {
            self.flush_datagram();
        }
        self.datagram_out.extend_from_slice(&self.scratch);
    }

    /// Hands what is waiting to QUIC, as far as it takes it.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        self.flush_datagram();
        if self.bulk_out.stream.is_none() && !self.bulk_out.bytes.is_empty() {
            self.bulk_out.stream = self.connection.streams().open(Dir::Uni);
        }
        self.control_out.write(&mut self.connection)?;
        self.bulk_out.write(&mut self.connection)
    }

    fn flush_datagram(&mut self) {
        if !self.datagram_out.is_empty() {
            let datagram = self.datagram_out.split().freeze();
            // It fitted when it was begun; if the path has shrunk since, it is lost as it may be.
            let sent = self.connection.datagrams().send(datagram, true);
            self.dropped += u64::from(sent.is_err());
        }
    }

    // -------------------------------------------------------------------------------- receiving

    /// The next frame, those of the control stream first. Streams are left alone unless `streams`;
    /// the bulk stream also while its next frame is `early`.
    pub(super) fn next_frame(
        &mut self,
        streams: bool,
        early: impl Fn(Attachment) -> bool,
    ) -> Result<Option<RelayFrame>, Error> {
        if streams {
            if let Some(frame) = self.control_in.next_frame(&mut self.connection)? {
                return Ok(Some(frame));
            }
            if self.control_in.stream.is_none() && self.control_out.stream.is_some() {
                let message = "the relay has ended the control stream";
                return Err(Error::new(ErrorCode::ConnectionLost, message));
            }
            if let Some(frame) = self.next_bulk_frame(early)? {
                return Ok(Some(frame));
            }
        }
        loop {
            if let Some(frame) = self.datagram_in.pop_front() {
                return RelayFrame::decode(frame).map(Some);
            }
            let Some(datagram) = self.connection.datagrams().recv() else {
                return Ok(None);
            };
            for frame in split_datagram(datagram) {
                self.datagram_in.push_back(frame?);
            }
        }
    }

    fn next_bulk_frame(
        &mut self,
        early: impl Fn(Attachment) -> bool,
    ) -> Result<Option<RelayFrame>, Error> {
        let frame = match self.held.take() {
            Some(frame) => Some(frame),
            None => self.bulk_in.next_frame(&mut self.connection)?,
        };
        if self.bulk_in.stream.is_none() {
            self.accept();
        }
        match frame {
            Some(RelayFrame::Deliver(deliver)) if early(deliver.attachment) => {
                self.held = Some(RelayFrame::Deliver(deliver));
                Ok(None)
            }
            other => Ok(other),
        }
    }
}

impl SendHalf {
    fn write(&mut self, connection: &mut Connection) -> Result<(), Error> {
        let Some(id) = self.stream else { return Ok(()) };
        while !self.bytes.is_empty() {
            match connection.send_stream(id).write(&self.bytes) {
                Ok(written) => self.bytes.advance(written),
                Err(WriteError::Blocked) => break,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => {
                    let message = "the relay has stopped reading a stream";
                    return Err(Error::new(ErrorCode::ConnectionLost, message));
                }
            }
        }
        Ok(())
    }
}

impl ReceiveHalf {
    fn next_frame(&mut self, connection: &mut Connection) -> Result<Option<RelayFrame>, Error> {
        loop {
            if let Some(frame) = self.frames.next_frame()? {
                return RelayFrame::decode(frame).map(Some);
            }
            let Some(id) = self.stream.filter(|_| self.readable) else {
                return Ok(None);
            };
            match read_chunk(connection, id) {
                Ok(Some(chunk)) => self.frames.push(chunk.bytes),
                Err(ReadError::Blocked) => self.readable = false,
                Ok(None) => {
                    self.frames.finish()?;
                    self.stream = None;
                }
                Err(ReadError::Reset(_)) => {
                    (self.stream, self.frames) = (None, FrameSplitter::default())
                }
            }
        }
    }
}

fn read_chunk(connection: &mut Connection, id: StreamId) -> Result<Option<Chunk>, ReadError> {
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else {
        return Ok(None);
    };
    let chunk = chunks.next(CHUNK_BYTES_MAX);
    // What this makes due is sent with everything else at the end of the pass.
    let _ = chunks.finalize();
    chunk
}

/// Passes what connection and endpoint have to tell each other.
pub(super) fn exchange(
    connection: &mut Connection,
    handle: ConnectionHandle,
    endpoint: &mut Endpoint,
) {
    while let Some(event) = connection.poll_endpoint_events() {
        if let Some(event) = endpoint.handle_event(handle, event) {
            connection.handle_event(event);
        }
    }
}

/// What the end of a connection means.
fn lost(reason: &ConnectionError) -> Error {
    match reason {
        ConnectionError::ApplicationClosed(close) => {
            let code = u16::try_from(close.error_code.into_inner())
                .ok()
                .and_then(ErrorCode::from_u16);
            let reason = String::from_utf8_lossy(&close.reason);
            match code {
                Some(ErrorCode::Ok) => Error::new(
                    ErrorCode::ConnectionLost,
                    "the relay has closed the connection",
                ),
                Some(code) if reason.is_empty() => code.into(),
                Some(code) => Error::new(code, reason.into_owned()),
                None => Error::new(
                    ErrorCode::ConnectionLost,
                    format!("closed by the relay: {reason}"),
                ),
            }
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL) =>
        {
            ErrorCode::ProtocolVersion.into()
        }
        ConnectionError::ConnectionClosed(close)
            if close.error_code == TransportErrorCode::CONNECTION_REFUSED =>
        {
            ErrorCode::ServerFull.into()
        }
        ConnectionError::VersionMismatch => ErrorCode::ProtocolVersion.into(),
        ConnectionError::TransportError(error) => {
            Error::new(ErrorCode::ConnectionLost, error.reason.clone())
        }
        ConnectionError::ConnectionClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => {
            Error::new(ErrorCode::ConnectionLost, reason.to_string())
        }
    }
}
