//! `dreamcatcher load`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use dreamcatcher_proto::frame::Mode;

use super::value;

/// Put load on a mesh, and judge what becomes of every message
///
/// Players sign in as guests at the auth service, meet in sessions by join code, and send at fixed
/// times: so many messages a second each, all of one delivery mode and one size. Ordered goes to all
/// members of the session, the other modes to the others. Each message says when it was to be sent, and
/// its latency counts from then, however late this tool or the mesh was: what is slow is measured, not
/// waited for. What the SDK refuses is counted and not tried again.
///
/// A judge holds every session to its promises: Ordered lost never, delivered once and in one order for
/// all; Reliable in its sender's order, and lost only where that was told; Latest never older than what
/// came before; nothing from another session. If one is broken, or a player cannot play, the exit status
/// is 1; if auth or the relays do not answer, 69. Ctrl-C ends the measurement early, with its report.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct LoadArgs {
    /// The auth service of the mesh, as in http://127.0.0.1:7000
    #[arg(long, value_name = "URL")]
    pub(crate) auth: Option<String>,
    /// Sessions to play, 1–1000
    #[arg(long, value_name = "N", default_value = "10", value_parser = value::number(1_usize..=1_000))]
    pub(crate) sessions: usize,
    /// Players of each session, 2–16
    #[arg(long, value_name = "N", default_value = "4", value_parser = value::number(2_usize..=16))]
    pub(crate) players: usize,
    /// Messages that each player sends a second, 1–120
    #[arg(long, value_name = "RATE", default_value = "20", value_parser = value::number(1_u32..=120))]
    pub(crate) hz: u32,
    /// Bytes of each message: 24–65536, for latest and datagram 24–1100
    ///
    /// 24 of them are the stamp by which a message is judged. A player may send 262,144 bytes a second:
    /// --bytes, and 16 of a message's frame, times --hz.
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = value::number(0_usize..=1_000_000))]
    pub(crate) bytes: usize,
    /// The delivery mode of every message
    #[arg(long, value_name = "MODE", default_value = "ordered")]
    pub(crate) mode: LoadMode,
    /// How long to measure, 1–86400 seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = value::number(1_u64..=86_400))]
    pub(crate) seconds: u64,
    /// Seconds of the same load before that, 0–600, which are not measured
    #[arg(long, value_name = "S", default_value = "2", value_parser = value::number(0_u32..=600))]
    pub(crate) warm_up: u32,
    /// Sessions that are begun a second, 1–1000 [default: as many as have 50 players]
    ///
    /// An auth service takes 100 guests a second from loopback after the first 1,000, and one a second
    /// from any other address after the first 100. From there a node takes 64 connections of one
    /// address, and 20 new ones a second: a larger load comes from several machines.
    #[arg(long, value_name = "RATE", value_parser = value::number(1_u32..=1_000))]
    pub(crate) ramp: Option<u32>,
    /// Connect each player of a session to another relay, in turn: what is done by default
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) spread: bool,
    /// Connect each player to the relay that is nearest to this machine, as a game would
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) nearest: bool,
    /// Connect every player to this relay, and to no other
    #[arg(long, value_name = "NODE")]
    pub(crate) relay: Option<String>,
    /// Where relays serve /metrics, separated by commas: the report then says what CPU time they used
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = value::address)]
    pub(crate) admin: Vec<SocketAddr>,
    /// Write a JSON report here at the end; docs/report.md explains its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Record what each player sends and is told in this directory, for `dreamcatcher verify-history`
    #[arg(long, value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher load --auth http://127.0.0.1:7000
  dreamcatcher load --auth http://127.0.0.1:7000 --sessions 25 --players 4 --hz 30 --bytes 64 \\
      --mode ordered --seconds 30 --report ordered.json
  dreamcatcher load --auth http://127.0.0.1:7000 --mode latest --players 16 --relay relay-1-0
  dreamcatcher load --auth http://127.0.0.1:7000 --history run-1 && dreamcatcher verify-history run-1";

/// A delivery mode, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadMode {
    /// One order for all members, nothing lost
    Ordered,
    /// In the order of its sender
    Reliable,
    /// The newest counts; older ones may be dropped
    Latest,
    /// As it comes, if it comes
    Datagram,
}

impl From<LoadMode> for Mode {
    fn from(mode: LoadMode) -> Self {
        match mode {
            LoadMode::Ordered => Self::Ordered,
            LoadMode::Reliable => Self::Reliable,
            LoadMode::Latest => Self::Latest,
            LoadMode::Datagram => Self::Datagram,
        }
    }
}
