//! A client and a scripted relay, joined by a network without delay; time passes from timer to
//! timer.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use dreamcatcher_client::core::{Core, CoreConfig};
use dreamcatcher_client::{
    Epoch, ErrorCode, Incarnation, Index, Mode, PeerId, Pick, Probing, RelayAddress, Seq,
    SessionId, SessionOptions, UserId,
};
use dreamcatcher_proto::codec::{FrameSplitter, split_datagram};
use dreamcatcher_proto::control::{Joined, RelayMessage};
use dreamcatcher_proto::frame::{Attachment, ClientFrame, Deliver, Place, RelayFrame};
use dreamcatcher_proto::limits::ALPN_CLIENT;
use dreamcatcher_proto::{BootId, Mid};
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event,
    ServerConfig, StreamEvent, StreamId, TransportConfig, VarInt,
};
use rustls::pki_types::PrivatePkcs8KeyDer;

pub(crate) const FIRST: SocketAddr = relay(1);
pub(crate) const SECOND: SocketAddr = relay(2);
const CLIENT: SocketAddr = relay(100);

const fn relay(host: u8) -> SocketAddr {
    SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, host)),
        4433,
    )
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Control,
    Bulk,
    Datagram,
}

pub(crate) struct Stage {
    pub(crate) core: Core,
    pub(crate) now: Instant,
    /// What the client has sent and the test has not looked at.
    pub(crate) frames: VecDeque<(Way, ClientFrame)>,
    /// Datagrams with frames that the client has sent.
    pub(crate) datagrams: usize,
    /// Connections that were accepted, and where the last one went.
    pub(crate) connections: usize,
    pub(crate) served: Option<SocketAddr>,
    /// Packets to this relay are lost.
    pub(crate) unreachable: Option<SocketAddr>,
    relay: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    control: Option<StreamId>,
    bulk: Option<StreamId>,
    inputs: BTreeMap<StreamId, FrameSplitter>,
    outputs: BTreeMap<Way, BytesMut>,
}

impl Stage {
    /// A client that has just been given these relays.
    pub(crate) fn new(relays: &[SocketAddr]) -> Self {
        let mut stage = Self::make(relays, None, TransportConfig::default(), Pick::Listed);
        stage.settle();
        stage
    }

    /// The same, with a hash of another certificate.
    pub(crate) fn with_pinned(relays: &[SocketAddr], pinned: [u8; 32]) -> Self {
        Self::make(
            relays,
            Some(pinned),
            TransportConfig::default(),
            Pick::Listed,
        )
    }

    /// The same, with nobody there.
    pub(crate) fn dark(relays: &[SocketAddr], pick: Pick) -> Self {
        let mut stage = Self::make(relays, None, TransportConfig::default(), pick);
        stage.relay.set_server_config(None);
        stage
    }

    /// A client in a session, at index 10, through the first relay.
    pub(crate) fn joined(relays: &[SocketAddr]) -> Self {
        let mut stage = Self::new(relays);
        stage.join();
        stage
    }

    /// The same, through a relay that takes no QUIC datagrams.
    pub(crate) fn without_datagrams() -> Self {
        let mut transport = TransportConfig::default();
        transport.datagram_receive_buffer_size(None);
        let mut stage = Self::make(&[FIRST], None, transport, Pick::Listed);
        stage.settle();
        stage.join();
        stage
    }

    fn join(&mut self) {
        self.welcome();
        self.core
            .create(SessionOptions::default(), self.now)
            .unwrap();
        self.settle();
        self.send(Way::Control, &joined(1, false));
        while self.core.poll_reply().is_some() {}
        assert!(self.core.session().is_some());
        self.frames.clear();
    }

    fn make(
        relays: &[SocketAddr],
        pinned: Option<[u8; 32]>,
        transport: TransportConfig,
        pick: Pick,
    ) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec!["relay".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let hash = digest::digest(&digest::SHA256, certificate.der())
            .as_ref()
            .try_into()
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        tls.alpn_protocols = vec![ALPN_CLIENT.to_vec()];
        let mut server =
            ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        server.transport_config(Arc::new(transport));
        let relay = Endpoint::new(
            Arc::new(EndpointConfig::default()),
            Some(Arc::new(server)),
            true,
            None,
        );

        let now = Instant::now();
        let address =
            |&address: &SocketAddr| RelayAddress::new(address, vec![pinned.unwrap_or(hash)]);
        let config = CoreConfig {
            relays: relays.iter().map(address).collect(),
            pick,
            follow_owner: false,
            probing: Probing::default(),
            token: "token".to_owned(),
            seed: [1; 32],
            segments_max: 4,
            mtu_discovery: true,
        };
        Self {
            core: Core::new(config, now).unwrap(),
            now,
            frames: VecDeque::new(),
            datagrams: 0,
            connections: 0,
            served: None,
            unreachable: None,
            relay,
            connection: None,
            control: None,
            bulk: None,
            inputs: BTreeMap::new(),
            outputs: BTreeMap::new(),
        }
    }

    // --------------------------------------------------------------------------- the relay's part

    pub(crate) fn welcome(&mut self) {
        let node = "relay-1-0".parse().unwrap();
        let (boot, user) = (BootId(1), UserId([9; 16]));
        let welcome = RelayMessage::Welcome {
            version: 1,
            node,
            boot,
            user,
        };
        self.send(Way::Control, &RelayFrame::Control(welcome));
        self.frames
            .retain(|(_, frame)| !format!("{frame:?}").contains("Hello"));
    }

    pub(crate) fn send(&mut self, way: Way, frame: &RelayFrame) {
        self.send_later(way, frame);
        self.settle();
    }

    /// With the next step, as far as the client's flow control allows.
    pub(crate) fn send_later(&mut self, way: Way, frame: &RelayFrame) {
        frame.encode(self.outputs.entry(way).or_default());
    }

    pub(crate) fn send_bytes(&mut self, way: Way, bytes: &[u8]) {
        self.outputs
            .entry(way)
            .or_default()
            .extend_from_slice(bytes);
        self.settle();
    }

    /// Bytes that the client's flow control does not allow yet.
    pub(crate) fn unsent(&self) -> usize {
        self.outputs.values().map(BytesMut::len).sum()
    }

    pub(crate) fn close(&mut self, code: ErrorCode, reason: &'static str) {
        let (_, connection) = self.connection.as_mut().unwrap();
        connection.close(
            self.now,
            VarInt::from_u32(code as u32),
            Bytes::from_static(reason.as_bytes()),
        );
        self.settle();
    }

    pub(crate) fn next_frame(&mut self) -> (Way, ClientFrame) {
        self.settle();
        self.frames
            .pop_front()
            .expect("the client has sent nothing")
    }

    // ------------------------------------------------------------------------------ time and network

    /// Lets everything happen that takes no time.
    pub(crate) fn settle(&mut self) {
        while self.client_to_relay() | self.relay_to_client() {}
    }

    /// Goes to the next timer.
    pub(crate) fn step(&mut self) {
        self.settle();
        let relay = self
            .connection
            .as_mut()
            .and_then(|(_, connection)| connection.poll_timeout());
        let next = self.core.poll_timeout().into_iter().chain(relay).min();
        self.now = next.unwrap_or(self.now).max(self.now);
        self.core.handle_timeout(self.now);
        if let Some((_, connection)) = &mut self.connection {
            connection.handle_timeout(self.now);
        }
        self.settle();
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end && !self.core.is_finished() {
            self.step();
        }
    }

    fn client_to_relay(&mut self) -> bool {
        let (mut moved, mut buffer, mut answer) = (false, Vec::new(), Vec::new());
        while let Some(transmit) = self.core.poll_transmit(self.now, &mut buffer) {
            moved = true;
            if self.unreachable == Some(transmit.destination) {
                continue;
            }
            for datagram in
                buffer[..transmit.size].chunks(transmit.segment_size.unwrap_or(transmit.size))
            {
                let data = BytesMut::from(datagram);
                match self
                    .relay
                    .handle(self.now, CLIENT, None, transmit.ecn, data, &mut answer)
                {
                    Some(DatagramEvent::NewConnection(incoming)) => {
                        self.connection = self
                            .relay
                            .accept(incoming, self.now, &mut answer, None)
                            .ok();
                        self.connections += 1;
                        self.served = Some(transmit.destination);
                        (self.control, self.bulk) = (None, None);
                        self.inputs.clear();
                        self.outputs.clear();
                    }
                    Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                        if let Some((present, connection)) = &mut self.connection
                            && *present == handle
                        {
                            connection.handle_event(event);
                        }
                    }
                    Some(DatagramEvent::Response(_)) | None => {}
                }
            }
        }
        moved
    }

    fn relay_to_client(&mut self) -> bool {
        let Some((handle, connection)) = &mut self.connection else {
            return false;
        };
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.relay.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            let Event::Stream(event) = event else {
                continue;
            };
            let id = match event {
                StreamEvent::Opened { dir } => connection.streams().accept(dir),
                StreamEvent::Readable { id } => Some(id),
                StreamEvent::Writable { .. }
                | StreamEvent::Finished { .. }
                | StreamEvent::Stopped { .. }
                | StreamEvent::Available { .. } => None,
            };
            let Some(id) = id else { continue };
            if id.dir() == Dir::Bi {
                self.control = Some(id);
            }
            let way = if id.dir() == Dir::Bi {
                Way::Control
            } else {
                Way::Bulk
            };
            let frames = self.inputs.entry(id).or_default();
            let mut stream = connection.recv_stream(id);
            let mut chunks = stream.read(true).unwrap();
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                frames.push(chunk.bytes);
                while let Some(frame) = frames.next_frame().unwrap() {
                    self.frames
                        .push_back((way, ClientFrame::decode(frame).unwrap()));
                }
            }
            let _ = chunks.finalize();
        }
        while let Some(datagram) = connection.datagrams().recv() {
            self.datagrams += 1;
            for frame in split_datagram(datagram) {
                self.frames
                    .push_back((Way::Datagram, ClientFrame::decode(frame.unwrap()).unwrap()));
            }
        }
        for (way, bytes) in &mut self.outputs {
            let stream = match way {
                Way::Control => self.control,
                Way::Bulk => {
                    self.bulk = self.bulk.or_else(|| connection.streams().open(Dir::Uni));
                    self.bulk
                }
                Way::Datagram => {
                    if !bytes.is_empty() {
                        connection
                            .datagrams()
                            .send(bytes.split().freeze(), true)
                            .unwrap();
                    }
                    None
                }
            };
            if let Some(id) = stream.filter(|_| !bytes.is_empty())
                && let Ok(written) = connection.send_stream(id).write(bytes)
            {
                let _ = bytes.split_to(written);
            }
        }
        let (mut moved, mut buffer) = (false, Vec::new());
        while let Some(transmit) = connection.poll_transmit(self.now, 1, &mut buffer) {
            moved = true;
            let from = self.served.unwrap_or(FIRST);
            if self.unreachable != Some(from) {
                self.core.handle_datagram(
                    from,
                    transmit.ecn,
                    BytesMut::from(&buffer[..]),
                    self.now,
                );
            }
            buffer.clear();
        }
        moved
    }
}

// -------------------------------------------------------------------------------------------- frames

pub(crate) fn joined(request: u64, resumed: bool) -> RelayFrame {
    let joined = Joined {
        attachment: Attachment(1),
        session: SessionId([7; 16]),
        code: "BCDF67".parse().ok(),
        home_region: String::new(),
        peer: PeerId(2),
        incarnation: Incarnation(1),
        epoch: Epoch(5),
        index: Index(10),
        roster: Vec::new(),
        resumed,
        ordered_seen: Seq(0),
        reliable_seen: Seq(0),
        max_players: 8,
        name: String::new(),
        owner: "relay-1-0".parse().unwrap(),
        rejoin_hold: dreamcatcher_proto::limits::REJOIN_HOLD_DEFAULT,
    };
    RelayFrame::Control(RelayMessage::Joined { request, joined })
}

pub(crate) fn ordered(index: u64) -> RelayFrame {
    message(Mode::Ordered, index as u32, index)
}

pub(crate) fn message(mode: Mode, seq: u32, index: u64) -> RelayFrame {
    RelayFrame::Deliver(Deliver {
        attachment: Attachment(1),
        mid: Mid {
            sender: PeerId(1),
            incarnation: Incarnation(1),
            seq: Seq(seq),
        },
        mode,
        channel: 0,
        place: Place {
            epoch: Epoch(5),
            index: Index(index),
        },
        key: 0,
        payload: Bytes::from_static(b"payload"),
    })
}

pub(crate) fn ended(code: ErrorCode) -> RelayFrame {
    let attachment = Attachment(1);
    RelayFrame::Control(RelayMessage::Ended {
        request: 0,
        attachment,
        error: code.into(),
        can_rejoin: false,
    })
}
