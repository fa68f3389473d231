//! Every limit that the protocol sets, once. The table in `docs/protocol.md` is checked against
//! [`TABLE`] by a test.

use std::time::Duration;

/// The protocol version in `Hello`, and the number in the ALPN names.
pub const PROTOCOL_VERSION: u32 = 1;
/// The ALPN of a client connection (RFC 7301).
pub const ALPN_CLIENT: &[u8] = b"dreamcatcher/1";
/// The ALPN of a connection between relays.
pub const ALPN_MESH: &[u8] = b"dreamcatcher-mesh/1";

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $value:expr, $shown:expr;)*) => {
        $($(#[$doc])* pub const $name: $ty = $value;)*

        /// Name and value of each limit, as the documentation shows them.
        pub const TABLE: &[(&str, &str)] = &[$((stringify!($name), $shown)),*];
    };
}

limits! {
    /// Largest payload on a stream: a level chunk fits, a file does not.
    PAYLOAD_BYTES_MAX: usize = 65_536, "65,536";
    /// Largest payload that every path carries in one QUIC datagram.
    DATAGRAM_PAYLOAD_BYTES: usize = 1_100, "1,100";
    /// Largest frame, its length prefix not counted: a payload, and room for header and targets.
    FRAME_BYTES_MAX: usize = 66_560, "66,560";
    /// Largest control message: the roster of the largest session fits many times.
    CONTROL_BYTES_MAX: usize = 32_768, "32,768";
    /// Longest access token.
    TOKEN_BYTES_MAX: usize = 4_096, "4,096";
    /// Channels 0–15.
    CHANNELS: u8 = 16, "16";
    /// Members that a session can be configured to hold.
    PLAYERS_MAX: u16 = 64, "64";
    /// Members when the creator names no number.
    PLAYERS_DEFAULT: u16 = 8, "8";
    /// Targets that one message can list.
    TARGETS_MAX: usize = 128, "128";
    /// Longest session name, in characters.
    SESSION_NAME_CHARS_MAX: usize = 64, "64";
    /// Longest display name of a player, in characters.
    DISPLAY_NAME_CHARS_MAX: usize = 32, "32";
    /// Longest `app_version`, in bytes.
    APP_VERSION_BYTES_MAX: usize = 64, "64";
    /// Longest region name.
    REGION_CHARS_MAX: usize = 32, "32";
    /// Longest node id: a DNS label (RFC 1035, 2.3.4).
    NODE_ID_CHARS_MAX: usize = 63, "63";
    /// Letters of a join code: 20⁶ = 64 million codes.
    JOIN_CODE_CHARS: usize = 6, "6";
    /// Longest reason that a leave, kick or close carries.
    REASON_BYTES_MAX: usize = 128, "128";
    /// From connection to a valid `Hello`.
    HELLO_TIMEOUT: Duration = Duration::from_secs(3), "3 s";
    /// From a request to its answer, before the gateway answers `Timeout` itself.
    REQUEST_TIMEOUT: Duration = Duration::from_secs(5), "5 s";
    /// Client pings after this much silence.
    PING_AFTER: Duration = Duration::from_millis(500), "500 ms";
    /// A connection with no packet for this long is lost.
    IDLE_TIMEOUT: Duration = Duration::from_secs(10), "10 s";
    /// How long a dropped member's seat is held when the creator names no time.
    REJOIN_HOLD_DEFAULT: Duration = Duration::from_secs(60), "60 s";
    /// Longest that a seat can be held.
    REJOIN_HOLD_MAX: Duration = Duration::from_secs(600), "600 s";
    /// How long a session without members lives when the creator names no time.
    EMPTY_TTL_DEFAULT: Duration = Duration::from_secs(30), "30 s";
    /// Longest that an empty session can live.
    EMPTY_TTL_MAX: Duration = Duration::from_secs(300), "300 s";
    /// Ordered entries that the owner retains for resume.
    RETAINED_ENTRIES_MAX: usize = 16_384, "16,384";
    /// Bytes of ordered payload that the owner retains for resume.
    RETAINED_BYTES_MAX: usize = 8_388_608, "8,388,608";
    /// Entries of one portion in which a member that comes back is caught up: the next follows when
    /// half of them are acknowledged.
    REPLAY_ENTRIES: usize = 1_024, "1,024";
    /// Bytes of payload of one such portion: two are below what makes a slow consumer.
    REPLAY_BYTES: usize = 393_216, "393,216";
    /// Ordered sends of one member that wait for their place in the order; the next is refused.
    UNRESOLVED_SENDS_MAX: usize = 1_024, "1,024";
    /// Bytes waiting to be written to one client before it is a slow consumer.
    CLIENT_QUEUE_BYTES_MAX: usize = 1_048_576, "1,048,576";
    /// Bytes waiting to be written to one relay before its oldest `Latest` and `Datagram` frames are dropped
    /// and then the link is reset.
    LINK_QUEUE_BYTES_MAX: usize = 16_777_216, "16,777,216";
    /// Members of one relay, across its sessions.
    CLIENTS_PER_NODE_MAX: usize = 20_000, "20,000";
    /// One user may create a session this often.
    CREATE_EVERY: Duration = Duration::from_secs(3), "3 s";
    /// And this many at once.
    CREATE_BURST: u32 = 10, "10";
    /// One user may join or resume this often.
    JOIN_EVERY: Duration = Duration::from_secs(1), "1 s";
    /// And this many times at once.
    JOIN_BURST: u32 = 20, "20";
    /// Messages that one member may send per second, unless the relay is configured otherwise.
    MEMBER_MESSAGES_PER_S: u32 = 1_000, "1,000";
    /// Bytes that one member may send per second, likewise.
    MEMBER_BYTES_PER_S: u32 = 262_144, "262,144";
    /// How much of both a member may have saved up.
    MEMBER_BURST: Duration = Duration::from_secs(2), "2 s";
    /// A member whose streams had to wait for its budget this long without a break is closed.
    MEMBER_OVER_BUDGET_MAX: Duration = Duration::from_secs(10), "10 s";
    /// Connections of one user to one node; the newest wins.
    CONNECTIONS_PER_USER_MAX: u32 = 4, "4";
    /// Connections from one address (of IPv6: one /64) to one node.
    CONNECTIONS_PER_ADDRESS_MAX: u32 = 64, "64";
    /// New connections per second from one /24 (of IPv6: one /48).
    CONNECTIONS_NEW_PER_S: u32 = 20, "20";
    /// And this many at once.
    CONNECTIONS_NEW_BURST: u32 = 40, "40";
    /// Entries between two acknowledgements of a member.
    ACK_EVERY_ENTRIES: u64 = 64, "64";
    /// Bytes of payload between two: whoever is caught up in portions has most of one still to come
    /// when it asks for the next.
    ACK_EVERY_BYTES: usize = 65_536, "65,536";
    /// Longest that a member waits before it acknowledges.
    ACK_DELAY: Duration = Duration::from_millis(250), "250 ms";
    /// How long members have to come back to a session's new owner before the others are told that they
    /// are away, and the least that a gateway looks for an owner before it ends with `OwnerLost`.
    OWNER_LOST_AFTER: Duration = Duration::from_secs(5), "5 s";
}
