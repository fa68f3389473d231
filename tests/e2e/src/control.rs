//! The control messages that a client needs, written by hand from `dreamcatcher.proto`.

use prost::{Message, Oneof};

#[derive(Clone, PartialEq, Message)]
pub struct ClientControl {
    #[prost(uint64, tag = "1")]
    pub request: u64,
    #[prost(oneof = "ClientBody", tags = "2, 3, 4, 5, 6")]
    pub body: Option<ClientBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum ClientBody {
    #[prost(message, tag = "2")]
    Hello(Hello),
    #[prost(message, tag = "3")]
    Create(CreateSession),
    #[prost(message, tag = "4")]
    Join(JoinSession),
    #[prost(message, tag = "5")]
    Leave(LeaveSession),
    #[prost(message, tag = "6")]
    Ping(Nonce),
}

#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub token: String,
    #[prost(string, tag = "3")]
    pub sdk: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateSession {
    #[prost(message, optional, tag = "1")]
    pub options: Option<SessionOptions>,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionOptions {
    #[prost(uint32, optional, tag = "1")]
    pub max_players: Option<u32>,
    #[prost(int32, tag = "2")]
    pub visibility: i32,
    #[prost(string, tag = "3")]
    pub name: String,
    #[prost(uint32, optional, tag = "4")]
    pub rejoin_hold_s: Option<u32>,
    #[prost(uint32, optional, tag = "5")]
    pub empty_ttl_s: Option<u32>,
    #[prost(string, tag = "6")]
    pub region: String,
    #[prost(string, tag = "7")]
    pub app_version: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct JoinSession {
    #[prost(oneof = "By", tags = "1, 2")]
    pub by: Option<By>,
    #[prost(string, tag = "3")]
    pub home_region: String,
    #[prost(string, tag = "4")]
    pub app_version: String,
    #[prost(message, optional, tag = "5")]
    pub resume: Option<Resume>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum By {
    #[prost(string, tag = "1")]
    Code(String),
    #[prost(bytes = "vec", tag = "2")]
    SessionId(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
pub struct Resume {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
    #[prost(uint32, tag = "2")]
    pub incarnation: u32,
    #[prost(uint64, tag = "3")]
    pub last_index: u64,
    #[prost(message, repeated, tag = "4")]
    pub reliable: Vec<ReliableCount>,
    #[prost(uint32, tag = "5")]
    pub attempt: u32,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct ReliableCount {
    #[prost(uint32, tag = "1")]
    pub sender: u32,
    #[prost(uint32, tag = "2")]
    pub count: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct LeaveSession {
    #[prost(uint32, tag = "1")]
    pub attachment: u32,
}

/// `Ping` and `Pong`.
#[derive(Clone, PartialEq, Message)]
pub struct Nonce {
    #[prost(uint64, tag = "1")]
    pub nonce: u64,
}

#[derive(Clone, PartialEq, Message)]
pub struct RelayControl {
    #[prost(uint64, tag = "1")]
    pub request: u64,
    #[prost(oneof = "RelayBody", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
    pub body: Option<RelayBody>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum RelayBody {
    #[prost(message, tag = "2")]
    Welcome(Welcome),
    #[prost(message, tag = "3")]
    Joined(Joined),
    #[prost(message, tag = "4")]
    Failed(Failure),
    #[prost(message, tag = "5")]
    Ended(SessionEnded),
    #[prost(message, tag = "6")]
    SendRejected(SendRejected),
    #[prost(message, tag = "7")]
    ReliableGap(ReliableGap),
    #[prost(message, tag = "8")]
    Pong(Nonce),
    #[prost(message, tag = "9")]
    Draining(Draining),
}

#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    #[prost(uint32, tag = "1")]
    pub version: u32,
    #[prost(string, tag = "2")]
    pub node_id: String,
    #[prost(fixed64, tag = "3")]
    pub boot_id: u64,
    #[prost(bytes = "vec", tag = "4")]
    pub user_id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Joined {
    #[prost(uint32, tag = "1")]
    pub attachment: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub session_id: Vec<u8>,
    #[prost(string, tag = "3")]
    pub join_code: String,
    #[prost(string, tag = "4")]
    pub home_region: String,
    #[prost(uint32, tag = "5")]
    pub peer_id: u32,
    #[prost(uint32, tag = "6")]
    pub incarnation: u32,
    #[prost(uint64, tag = "7")]
    pub epoch: u64,
    #[prost(uint64, tag = "8")]
    pub index: u64,
    #[prost(message, repeated, tag = "9")]
    pub roster: Vec<Member>,
    #[prost(bool, tag = "10")]
    pub resumed: bool,
    #[prost(uint32, tag = "11")]
    pub ordered_seen: u32,
    #[prost(uint32, tag = "12")]
    pub reliable_seen: u32,
    #[prost(uint32, tag = "13")]
    pub max_players: u32,
    #[prost(string, tag = "14")]
    pub name: String,
    #[prost(string, tag = "15")]
    pub owner: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Member {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
    #[prost(uint32, tag = "2")]
    pub incarnation: u32,
    #[prost(bytes = "vec", tag = "3")]
    pub user_id: Vec<u8>,
    #[prost(string, tag = "4")]
    pub display_name: String,
    #[prost(bool, tag = "5")]
    pub connected: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Failure {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(uint32, tag = "3")]
    pub retry_after_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionEnded {
    #[prost(uint32, tag = "1")]
    pub attachment: u32,
    #[prost(message, optional, tag = "2")]
    pub cause: Option<Failure>,
    #[prost(bool, tag = "3")]
    pub can_rejoin: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct SendRejected {
    #[prost(uint32, tag = "1")]
    pub attachment: u32,
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    #[prost(uint32, tag = "3")]
    pub seq: u32,
    #[prost(message, optional, tag = "4")]
    pub cause: Option<Failure>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ReliableGap {
    #[prost(uint32, tag = "1")]
    pub attachment: u32,
    #[prost(uint32, tag = "2")]
    pub sender: u32,
    #[prost(uint32, tag = "3")]
    pub missed: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct Draining {
    #[prost(uint32, tag = "1")]
    pub deadline_ms: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SessionEvent {
    #[prost(oneof = "Event", tags = "1, 2, 3, 4, 5")]
    pub body: Option<Event>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum Event {
    #[prost(message, tag = "1")]
    Joined(Member),
    #[prost(message, tag = "2")]
    Dropped(Peer),
    #[prost(message, tag = "3")]
    Rejoined(PeerRejoined),
    #[prost(message, tag = "4")]
    Left(PeerLeft),
    #[prost(message, tag = "5")]
    Refused(SendRefused),
}

/// `PeerDropped`.
#[derive(Clone, PartialEq, Message)]
pub struct Peer {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct PeerRejoined {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
    #[prost(uint32, tag = "2")]
    pub incarnation: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct SendRefused {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
    #[prost(uint32, tag = "2")]
    pub incarnation: u32,
    #[prost(uint32, tag = "3")]
    pub seq: u32,
    #[prost(uint32, tag = "4")]
    pub code: u32,
    #[prost(uint32, tag = "5")]
    pub absent: u32,
}

#[derive(Clone, PartialEq, Message)]
pub struct PeerLeft {
    #[prost(uint32, tag = "1")]
    pub peer_id: u32,
    #[prost(uint32, tag = "2")]
    pub code: u32,
}
