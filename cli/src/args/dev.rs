//! `dreamcatcher dev`.

use std::path::PathBuf;

use super::value;

/// Run a whole mesh in one process, with or without players
///
/// A directory in memory, an auth service and the relays, each relay with its own ports and its own
/// host label, all on 127.0.0.1: auth on port 7000 if it is free, everything else on free ports. Every
/// address is printed, with commands to paste into two more terminals.
///
/// With --bots, players sign in as guests, meet in sessions by join code, each on another relay, walk
/// (Latest, --hz) and act (Ordered, 2 Hz). A live table shows how they fare, and a judge holds every
/// session to its promises: nothing lost, nothing twice, one order for all, nothing from another
/// session, never an older position after a newer one. If one is broken, or a player cannot play, the
/// exit status is 1.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct DevArgs {
    /// Relays in the mesh, 1–16
    #[arg(long, value_name = "N", default_value = "3", value_parser = value::number(1_usize..=16))]
    pub(crate) relays: usize,
    /// Regions, separated by commas; relays are dealt out to them in turn, so give no more than --relays
    #[arg(long, value_name = "NAMES", default_value = "local", value_delimiter = ',', value_parser = value::region)]
    pub(crate) regions: Vec<String>,
    /// Players to simulate, 0–1000
    #[arg(long, value_name = "N", default_value = "0", value_parser = value::number(0_usize..=1_000))]
    pub(crate) bots: usize,
    /// Players of one session, 2–16 (needs --bots) [default: 4]
    #[arg(long, value_name = "N", value_parser = value::number(2_usize..=16))]
    pub(crate) players: Option<usize>,
    /// Positions that each player sends a second, 1–120 (needs --bots) [default: 20]
    #[arg(long, value_name = "RATE", value_parser = value::number(1_u32..=120))]
    pub(crate) hz: Option<u32>,
    /// Stop after this many seconds, 1–86400, instead of at Ctrl-C, SIGTERM or SIGHUP
    #[arg(long, value_name = "S", value_parser = value::number(1_u64..=86_400))]
    pub(crate) seconds: Option<u64>,
    /// Write a JSON report here at the end (needs --bots); docs/report.md explains its keys
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Write the addresses of auth, relays and admin pages here, as JSON, once the mesh is up
    #[arg(long, value_name = "FILE")]
    pub(crate) addresses: Option<PathBuf>,
    /// How long a relay may hold packets back to send more of them at once, 0–20000 µs
    #[arg(long, value_name = "US", default_value = "1000", value_parser = value::number(0_u64..=20_000))]
    pub(crate) max_batch_delay_us: u64,
    /// Record what each player sends and is told in this directory, for `dreamcatcher verify-history` (needs
    /// --bots)
    #[arg(long, value_name = "DIR")]
    pub(crate) history: Option<PathBuf>,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher dev
  dreamcatcher dev --relays 4 --regions eu,us --addresses mesh.json
  dreamcatcher dev --bots 12 --seconds 30
  dreamcatcher dev --bots 100 --players 4 --hz 30 --seconds 60 --report report.json";
