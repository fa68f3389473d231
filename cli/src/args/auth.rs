//! `dreamcatcher auth`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use dreamcatcher_auth::StoreConfig;
use dreamcatcher_proto::Error;

use super::{DirectoryArgs, value};

/// Run the auth service, or prepare its store
///
/// It signs players in and gives them access tokens, over HTTP; GET /openapi.json says what each call
/// takes and answers. It speaks plain HTTP: anywhere but on loopback, put TLS in front of it.
///
/// It publishes its keys in the directory, and lists the relays that it finds there.
///
/// SIGTERM, SIGHUP and Ctrl-C stop it gracefully: requests that have begun are answered.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    disable_help_subcommand = true
)]
pub(crate) struct AuthArgs {
    #[command(subcommand)]
    pub(crate) task: Option<AuthTask>,
    /// Where to listen (TCP)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = value::address)]
    pub(crate) listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are served as well (HTTP; keep it on loopback) [default: nowhere]
    #[arg(long, value_name = "ADDRESS", value_parser = value::address)]
    pub(crate) admin: Option<SocketAddr>,
    /// Proxies whose X-Forwarded-For is believed, separated by commas: limits then hold for who is behind them
    #[arg(long, value_name = "IPS", value_delimiter = ',', value_parser = value::ip)]
    pub(crate) trusted_proxies: Vec<IpAddr>,
    /// A new signing key comes every so many days, 1–365; the one before is accepted until its tokens have expired
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = value::number(1_u64..=365))]
    pub(crate) key_rotate_days: u64,
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    #[command(flatten)]
    pub(crate) directory: DirectoryArgs,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  dreamcatcher auth --store memory
  dreamcatcher auth --listen 127.0.0.1:8080 --store sqlite:/var/lib/dreamcatcher-auth/auth.db
  dreamcatcher auth migrate --store postgres://dreamcatcher@127.0.0.1/dreamcatcher --store-password-file pg.password
  dreamcatcher auth --store postgres://dreamcatcher@127.0.0.1/dreamcatcher --store-password-file pg.password \\
      --directory redis://dreamcatcher@127.0.0.1 --directory-password-file redis.password

A configuration file, for both:
  store = \"postgres://dreamcatcher@127.0.0.1/dreamcatcher\"
  store_password_file = \"/etc/dreamcatcher/pg.password\"
  directory = \"redis://dreamcatcher@127.0.0.1\"
  directory_password_file = \"/etc/dreamcatcher/redis.password\"";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum AuthTask {
    Migrate(MigrateArgs),
}

/// Bring the tables of the store to this version's shape
///
/// Needed once before the first start on Postgres, and after an update that says so; running it twice,
/// or from two places at a time, is harmless. A file of SQLite needs none: the service does it itself.
/// With --config it takes the file of `dreamcatcher auth`.
#[derive(Debug, clap::Args)]
#[command(
    after_long_help = "Example:\n  dreamcatcher auth migrate --store postgres://dreamcatcher@127.0.0.1/dreamcatcher --store-password-file pg.password"
)]
pub(crate) struct MigrateArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Accept a Postgres off loopback without TLS
    #[arg(
        long, value_name = "BOOL", action = clap::ArgAction::Set, num_args = 0..=1, require_equals = true,
        default_value = "false", default_missing_value = "true", hide_default_value = true,
        value_parser = value::switch
    )]
    pub(crate) insecure: bool,
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Store, where users and signing keys are kept")]
pub(crate) struct StoreArgs {
    /// sqlite:FILE, or postgres://USER@HOST/DATABASE, or `memory`, which forgets everything at the end
    #[arg(long, value_name = "STORE", default_value = "sqlite:dreamcatcher-auth.db", value_parser = value::url(store))]
    pub(crate) store: StoreConfig,
    /// A file with the password of Postgres, which wins over one in the URL
    #[arg(long, value_name = "FILE")]
    pub(crate) store_password_file: Option<PathBuf>,
    /// The CA of the Postgres server, PEM [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub(crate) store_ca_file: Option<PathBuf>,
    /// Connections to Postgres at a time, 1–256
    #[arg(long, value_name = "N", default_value = "16", value_parser = value::number(1_usize..=256))]
    pub(crate) store_connections: usize,
}

fn store(text: &str) -> Result<StoreConfig, String> {
    text.parse().map_err(|e: Error| e.message().to_owned())
}
