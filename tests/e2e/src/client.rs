//! The client of the page.
//!
//! ```text
//!  control stream ─┐
//!  bulk stream ────┼─▶ inbox ─▶ entries │ messages, by mode │ controls ─▶ what a test asks for
//!  datagrams ──────┘
//! ```
//!
//! It holds the relay to its word: an entry with a hole before it, a repeated one, a falling epoch
//! or a frame of another attachment fails the test.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectError, Connection, ConnectionError, Endpoint, RecvStream, SendStream};
use tokio::sync::mpsc;

use crate::control::{
    By, ClientBody, ClientControl, CreateSession, Event, Failure, Hello, JoinSession, Joined,
    LeaveSession, Nonce, RelayBody, RelayControl, ReliableCount, Resume, SessionEvent,
    SessionOptions, Welcome,
};
use crate::frame::{self, Deliver, Frame, Mid, Mode, Publish, SESSION_CHANNEL, Target};
use crate::tls::{self, Trust};
use crate::within;

/// Frames that wait between the connection and the test. Few, so that a test that does not read is a
/// client that does not read.
const INBOX_FRAMES: usize = 16;
/// Entries between two acknowledgements.
const ACK_EVERY: u64 = 64;
/// And bytes of their payload.
const ACK_EVERY_BYTES: usize = 65_536;

/// Where a relay is, and whom it is to be.
#[derive(Clone, Debug)]
pub struct RelayAddress {
    pub address: SocketAddr,
    pub trust: Trust,
}

/// Connects by QUIC and TLS, and no further.
pub async fn connect(
    relay: &RelayAddress,
    alpn: &str,
) -> Result<(Endpoint, Connection), ConnectionError> {
    let endpoint =
        Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a free UDP port on loopback");
    let tls = QuicClientConfig::try_from(tls::config(relay.trust.clone(), alpn)).expect("TLS 1.3");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connecting = endpoint
        .connect_with(config, relay.address, "relay")
        .unwrap_or_else(|error: ConnectError| panic!("cannot even try to connect: {error}"));
    let connection = within("a handshake", connecting).await?;
    Ok((endpoint, connection))
}

/// The code and reason that the relay closes the connection with.
pub async fn closed(connection: &Connection) -> (u64, String) {
    match within("the end of the connection", connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8(close.reason.to_vec()).expect("a reason is UTF-8");
            (close.error_code.into_inner(), reason)
        }
        other => panic!("the relay did not close the connection: {other}"),
    }
}

/// One entry of the session's order.
#[derive(Clone, Debug)]
pub struct Entry {
    pub index: u64,
    pub mid: Mid,
    pub what: What,
}

/// What stands at a place of the order, for this member.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Message {
        channel: u8,
        payload: Bytes,
    },
    Event(Event),
    /// It is for others.
    Skip,
}

/// One connection, and at most one membership.
#[derive(Debug)]
pub struct Client {
    pub connection: Connection,
    pub welcome: Welcome,
    endpoint: Endpoint,
    control: SendStream,
    bulk: Option<SendStream>,
    inbox: mpsc::Receiver<Frame>,
    last_request: u64,
    seat: Option<Seat>,
    /// Messages of an attachment that has not been announced yet.
    early: Vec<Deliver>,
    unacked_bytes: usize,
    pub controls: VecDeque<RelayControl>,
    pub entries: VecDeque<Entry>,
    pub messages: BTreeMap<Mode, VecDeque<Deliver>>,
}

/// A membership, and all that survives a connection.
#[derive(Clone, Debug)]
pub struct Seat {
    pub joined: Joined,
    last_index: u64,
    epoch: u64,
    sent: [u32; 4],
    reliable: BTreeMap<u16, u32>,
    /// Ordered sends whose entry has not come.
    unresolved: VecDeque<Publish>,
    /// The connections of this incarnation, without the one that joined.
    attempt: u32,
}

impl Seat {
    /// The member's own id.
    #[must_use]
    pub fn peer(&self) -> u16 {
        self.joined.peer_id as u16
    }

    /// Ordered sends whose entry has not come.
    #[must_use]
    pub fn unresolved(&self) -> usize {
        self.unresolved.len()
    }

    /// What to resume with over a new connection.
    #[must_use]
    pub fn resume(&self) -> Resume {
        Resume {
            peer_id: self.joined.peer_id,
            incarnation: self.joined.incarnation,
            last_index: self.last_index,
            reliable: self
                .reliable
                .iter()
                .map(|(&sender, &count)| ReliableCount {
                    sender: sender.into(),
                    count,
                })
                .collect(),
            attempt: self.attempt + 1,
        }
    }
}

impl Client {
    /// Connects and says hello.
    pub async fn hello(relay: &RelayAddress, token: &str) -> Self {
        let (endpoint, connection) = connect(relay, tls::ALPN)
            .await
            .unwrap_or_else(|e| panic!("no connection: {e}"));
        let (control, answers) = connection.open_bi().await.expect("the control stream");
        let (frames, inbox) = mpsc::channel(INBOX_FRAMES);
        tokio::spawn(read_stream(answers, frames.clone()));
        tokio::spawn(read_bulk(connection.clone(), frames.clone()));
        tokio::spawn(read_datagrams(connection.clone(), frames));
        let mut client = Self {
            connection,
            welcome: Welcome::default(),
            endpoint,
            control,
            bulk: None,
            inbox,
            last_request: 0,
            seat: None,
            early: Vec::new(),
            unacked_bytes: 0,
            controls: VecDeque::new(),
            entries: VecDeque::new(),
            messages: BTreeMap::new(),
        };
        let hello = Hello {
            version: 1,
            token: token.to_owned(),
            sdk: "e2e/1".to_owned(),
        };
        client.control(0, ClientBody::Hello(hello)).await;
        client.welcome = match client.next_control().await.body {
            Some(RelayBody::Welcome(welcome)) => welcome,
            other => panic!("{other:?} instead of Welcome"),
        };
        client
    }

    /// The present membership.
    #[must_use]
    pub fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("a member of a session")
    }

    #[must_use]
    pub fn peer(&self) -> u16 {
        self.seat().peer()
    }

    pub async fn create(&mut self, options: SessionOptions) -> Result<Joined, Failure> {
        let create = CreateSession {
            options: Some(options),
        };
        self.become_member(ClientBody::Create(create)).await
    }

    pub async fn join_code(&mut self, code: &str) -> Result<Joined, Failure> {
        let join = JoinSession {
            by: Some(By::Code(code.to_owned())),
            ..JoinSession::default()
        };
        self.become_member(ClientBody::Join(join)).await
    }

    pub async fn join(&mut self, join: JoinSession) -> Result<Joined, Failure> {
        self.become_member(ClientBody::Join(join)).await
    }

    /// Takes `seat` up again, and sends again what the owner has not seen.
    pub async fn resume(&mut self, mut seat: Seat) -> Result<Joined, Failure> {
        let join = JoinSession {
            by: Some(By::SessionId(seat.joined.session_id.clone())),
            home_region: seat.joined.home_region.clone(),
            resume: Some(seat.resume()),
            ..JoinSession::default()
        };
        seat.attempt += 1;
        let joined = match self.ask(ClientBody::Join(join)).await {
            RelayBody::Joined(joined) => joined,
            RelayBody::Failed(failure) => return Err(failure),
            other => panic!("{other:?} in answer to a resume"),
        };
        assert_eq!(joined.session_id, seat.joined.session_id);
        assert_eq!(
            (joined.peer_id, joined.incarnation),
            (seat.joined.peer_id, seat.joined.incarnation)
        );
        assert!(joined.epoch >= seat.epoch, "the epoch fell");
        if joined.resumed {
            assert_eq!(
                joined.index, seat.last_index,
                "the replay starts where the client is"
            );
            assert!(joined.roster.is_empty());
        }
        (seat.last_index, seat.joined) = (joined.index, joined.clone());
        let again: Vec<Publish> = seat
            .unresolved
            .iter()
            .filter(|publish| publish.seq > joined.ordered_seen)
            .cloned()
            .collect();
        self.take_seat(seat);
        for publish in again {
            let publish = Publish {
                attachment: joined.attachment as u16,
                ..publish
            };
            self.write_control(&publish.encode()).await;
        }
        Ok(joined)
    }

    async fn become_member(&mut self, wish: ClientBody) -> Result<Joined, Failure> {
        match self.ask(wish).await {
            RelayBody::Joined(joined) => {
                self.take_seat(Seat {
                    last_index: joined.index,
                    epoch: joined.epoch,
                    joined: joined.clone(),
                    sent: [0; 4],
                    reliable: BTreeMap::new(),
                    unresolved: VecDeque::new(),
                    attempt: 0,
                });
                Ok(joined)
            }
            RelayBody::Failed(failure) => Err(failure),
            other => panic!("{other:?} in answer to a join"),
        }
    }

    /// Leaves, and reads up to the end of the membership.
    pub async fn leave(&mut self) {
        let attachment = self.seat().joined.attachment;
        match self
            .ask(ClientBody::Leave(LeaveSession { attachment }))
            .await
        {
            RelayBody::Ended(ended) => {
                assert_eq!(ended.attachment, attachment);
                assert_eq!(ended.cause.unwrap_or_default().code, 0);
            }
            other => panic!("{other:?} in answer to a leave"),
        }
        self.seat = None;
    }

    /// Sends on channel 0 with key 0; the seq.
    pub async fn send(&mut self, mode: Mode, target: Target, payload: impl Into<Bytes>) -> u32 {
        self.send_keyed(mode, target, 0, payload).await
    }

    pub async fn send_keyed(
        &mut self,
        mode: Mode,
        target: Target,
        key: u16,
        payload: impl Into<Bytes>,
    ) -> u32 {
        let seat = self.seat.as_mut().expect("a member of a session");
        let seq = &mut seat.sent[mode as usize];
        *seq += 1;
        let publish = Publish {
            attachment: seat.joined.attachment as u16,
            mode,
            channel: 0,
            seq: *seq,
            target,
            key,
            payload: payload.into(),
        };
        if mode == Mode::Ordered {
            seat.unresolved.push_back(publish.clone());
        }
        self.publish(&publish).await;
        publish.seq
    }

    /// Sends a message as it is.
    pub async fn publish(&mut self, publish: &Publish) {
        let bytes = publish.encode();
        match publish.mode {
            Mode::Ordered => self.write_control(&bytes).await,
            Mode::Reliable => self.write_bulk(&bytes).await,
            Mode::Latest | Mode::Datagram => {
                if self
                    .connection
                    .max_datagram_size()
                    .is_some_and(|max| bytes.len() <= max)
                {
                    self.connection.send_datagram(bytes).expect("it fits");
                } else {
                    self.write_bulk(&bytes).await;
                }
            }
        }
    }

    /// A round trip: all that the relay sent on the control stream before is read.
    pub async fn ping(&mut self) {
        let nonce = self.last_request + 7_000;
        self.control(0, ClientBody::Ping(Nonce { nonce })).await;
        let pong = RelayBody::Pong(Nonce { nonce });
        self.read_until("a Pong", |client| {
            let at = client
                .controls
                .iter()
                .position(|control| control.body.as_ref() == Some(&pong))?;
            client.controls.remove(at)
        })
        .await;
    }

    /// Gives up the connection without a word of leaving; what is needed to resume.
    pub async fn drop_connection(self) -> Seat {
        self.connection.close(0_u32.into(), b"");
        self.endpoint.wait_idle().await;
        self.seat.expect("a member of a session")
    }

    // ------------------------------------------------------------------------------------- reading

    /// The next entry of the order.
    pub async fn entry(&mut self) -> Entry {
        self.read_until("an entry", |client| client.entries.pop_front())
            .await
    }

    /// The next entry that is a message for this member.
    pub async fn ordered(&mut self) -> (Mid, Bytes) {
        loop {
            let entry = self.entry().await;
            if let What::Message { payload, .. } = entry.what {
                return (entry.mid, payload);
            }
        }
    }

    /// The next entry that the session itself made.
    pub async fn event(&mut self) -> Event {
        loop {
            if let What::Event(event) = self.entry().await.what {
                return event;
            }
        }
    }

    /// The next message of a mode that is not Ordered.
    pub async fn message(&mut self, mode: Mode) -> Deliver {
        self.read_until("a message", |client| {
            client.messages.get_mut(&mode)?.pop_front()
        })
        .await
    }

    /// The next control message.
    pub async fn next_control(&mut self) -> RelayControl {
        self.read_until("a control message", |client| client.controls.pop_front())
            .await
    }

    /// The body of the answer to a request.
    pub async fn ask(&mut self, body: ClientBody) -> RelayBody {
        self.last_request += 1;
        let request = self.last_request;
        self.control(request, body).await;
        let answer = self
            .read_until("an answer", |client| {
                let at = client
                    .controls
                    .iter()
                    .position(|control| control.request == request)?;
                client.controls.remove(at)
            })
            .await;
        answer.body.expect("an answer has a body")
    }

    async fn read_until<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&mut Self) -> Option<T>,
    ) -> T {
        within(what, async {
            loop {
                if let Some(picked) = pick(self) {
                    return picked;
                }
                let frame = self.inbox.recv().await;
                let frame = frame.unwrap_or_else(|| {
                    panic!(
                        "the connection ended before {what}: {:?}",
                        self.connection.close_reason()
                    )
                });
                self.take(frame).await;
            }
        })
        .await
    }

    async fn take(&mut self, frame: Frame) {
        match frame {
            Frame::Control(control) => {
                match (&control.body, &mut self.seat) {
                    (Some(RelayBody::SendRejected(rejected)), Some(seat))
                        if (rejected.mode, rejected.attachment) == (0, seat.joined.attachment) =>
                    {
                        seat.unresolved
                            .retain(|publish| publish.seq != rejected.seq);
                    }
                    (Some(RelayBody::ReliableGap(gap)), Some(seat))
                        if gap.attachment == seat.joined.attachment =>
                    {
                        *seat.reliable.entry(gap.sender as u16).or_default() += gap.missed;
                    }
                    _ => {}
                }
                self.controls.push_back(control);
            }
            Frame::Skip(skip) => {
                self.take_entry(
                    skip.attachment,
                    skip.index,
                    skip.epoch,
                    skip.mid,
                    What::Skip,
                )
                .await
            }
            Frame::Deliver(deliver) if deliver.mode == Mode::Ordered => {
                let what = if deliver.channel == SESSION_CHANNEL {
                    assert_eq!(
                        deliver.mid,
                        Mid {
                            sender: 0,
                            incarnation: 0,
                            seq: 0
                        }
                    );
                    let event = SessionEvent::decode(deliver.payload).expect("a SessionEvent");
                    What::Event(event.body.expect("an event has a body"))
                } else {
                    What::Message {
                        channel: deliver.channel,
                        payload: deliver.payload,
                    }
                };
                self.take_entry(
                    deliver.attachment,
                    deliver.index,
                    deliver.epoch,
                    deliver.mid,
                    what,
                )
                .await;
            }
            Frame::Deliver(deliver) => {
                let present = self.seat.as_ref().map_or(0, |seat| seat.joined.attachment);
                match u32::from(deliver.attachment).cmp(&present) {
                    Ordering::Less => {}
                    // It has overtaken its `Joined`, which is on another stream.
                    Ordering::Greater => self.early.push(deliver),
                    Ordering::Equal => self.take_message(deliver),
                }
            }
        }
    }

    fn take_message(&mut self, deliver: Deliver) {
        if let Some(seat) = self
            .seat
            .as_mut()
            .filter(|_| deliver.mode == Mode::Reliable)
        {
            *seat.reliable.entry(deliver.mid.sender).or_default() += 1;
        }
        self.messages
            .entry(deliver.mode)
            .or_default()
            .push_back(deliver);
    }

    fn take_seat(&mut self, seat: Seat) {
        let attachment = seat.joined.attachment;
        self.seat = Some(seat);
        let early = std::mem::take(&mut self.early);
        let (now, later) = early
            .into_iter()
            .partition(|deliver| u32::from(deliver.attachment) == attachment);
        self.early = later;
        Vec::into_iter(now).for_each(|deliver| self.take_message(deliver));
    }

    async fn take_entry(&mut self, attachment: u16, index: u64, epoch: u64, mid: Mid, what: What) {
        let seat = self.seat.as_mut().expect("no entry before a membership");
        assert_eq!(u32::from(attachment), seat.joined.attachment);
        assert_eq!(
            index,
            seat.last_index + 1,
            "entries follow each other without a hole"
        );
        assert!(
            epoch >= seat.epoch,
            "the epoch fell from {} to {epoch}",
            seat.epoch
        );
        (seat.last_index, seat.epoch) = (index, epoch);
        if u32::from(mid.sender) == seat.joined.peer_id
            && u32::from(mid.incarnation) == seat.joined.incarnation
        {
            let sent = seat.unresolved.pop_front();
            assert_eq!(
                sent.map(|publish| publish.seq),
                Some(mid.seq),
                "own sends resolve in their order"
            );
        }
        if let What::Event(Event::Refused(refused)) = &what
            && (refused.peer_id, refused.incarnation)
                == (seat.joined.peer_id, seat.joined.incarnation)
        {
            seat.unresolved.retain(|publish| publish.seq != refused.seq);
        }
        if let What::Message { payload, .. } = &what {
            self.unacked_bytes += payload.len();
        }
        self.entries.push_back(Entry { index, mid, what });
        if index.is_multiple_of(ACK_EVERY) || self.unacked_bytes >= ACK_EVERY_BYTES {
            self.unacked_bytes = 0;
            self.write_control(&frame::encode_ack(attachment, index))
                .await;
        }
    }

    // ------------------------------------------------------------------------------------- writing

    pub async fn control(&mut self, request: u64, body: ClientBody) {
        let control = ClientControl {
            request,
            body: Some(body),
        };
        self.write_control(&frame::encode_control(&control)).await;
    }

    /// Writes bytes to the control stream. That the connection has ended shows when reading.
    pub async fn write_control(&mut self, bytes: &[u8]) {
        let _ = within("room on the control stream", self.control.write_all(bytes)).await;
    }

    /// Ends the control stream.
    pub fn finish_control(&mut self) {
        let _ = self.control.finish();
    }

    /// Writes bytes to the bulk stream. That the connection has ended shows when reading.
    pub async fn write_bulk(&mut self, bytes: &[u8]) {
        if self.bulk.is_none() {
            self.bulk = within("a bulk stream", self.connection.open_uni())
                .await
                .ok();
        }
        if let Some(bulk) = &mut self.bulk {
            let _ = within("room on the bulk stream", bulk.write_all(bytes)).await;
        }
    }
}

async fn read_bulk(connection: Connection, frames: mpsc::Sender<Frame>) {
    while let Ok(stream) = connection.accept_uni().await {
        tokio::spawn(read_stream(stream, frames.clone()));
    }
}

async fn read_stream(mut stream: RecvStream, frames: mpsc::Sender<Frame>) {
    let mut bytes = BytesMut::new();
    while let Ok(Some(chunk)) = stream.read_chunk(65_536, true).await {
        bytes.extend_from_slice(&chunk.bytes);
        while let Some(frame) = frame::split(&mut bytes) {
            if frames.send(Frame::decode(frame)).await.is_err() {
                return;
            }
        }
    }
}

async fn read_datagrams(connection: Connection, frames: mpsc::Sender<Frame>) {
    while let Ok(datagram) = connection.read_datagram().await {
        let mut bytes = BytesMut::from(datagram);
        while let Some(frame) = frame::split(&mut bytes) {
            if frames.send(Frame::decode(frame)).await.is_err() {
                return;
            }
        }
        assert!(bytes.is_empty(), "a datagram holds whole frames");
    }
}
