//! A whole mesh in this process: directory, auth service, relays.
//!
//! ```text
//!  MemoryDirectory ◀──register── relay-1 … relay-N ◀──keys── Auth
//!        └──hints──▶ relay list ──▶ GET /v1/relays ────────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dreamcatcher_auth::{Auth, Config};
use dreamcatcher_directory::{Expiry, MemoryDirectory, Timestamp};
use dreamcatcher_proto::limits::CLIENTS_PER_NODE_MAX;
use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_relay::identity::ClusterKey;
use dreamcatcher_relay::node::io::Stats;
use dreamcatcher_relay::{KeySource, MemberRates, NodeInfo, Quotas, Relay, RelayConfig};
use tokio::task::JoinSet;

use crate::exit::Failure;

/// How long the relays may take to register: they only have to start their threads.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What a mesh is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) relays: usize,
    pub(crate) regions: Vec<String>,
    pub(crate) max_batch_delay: Duration,
}

/// A mesh that runs. Relay k is `relay-<k>` on `host-<k>`, with one node.
#[derive(Debug)]
pub(crate) struct Mesh {
    auth: Auth,
    relays: Vec<Relay>,
    /// Ends with the mesh.
    _expiry: Expiry,
}

impl Mesh {
    /// Starts everything on free ports of loopback; returns once every relay is in the relay list.
    pub(crate) async fn start(plan: &Plan) -> Result<Self, Failure> {
        let directory = memory_directory();
        let expiry = directory.spawn_expiry();
        let auth = start_auth(Config::new(Arc::new(directory.clone()))).await?;
        let keys = KeySource::from(auth.key_updates());
        let cluster_key = ClusterKey::generate();
        let mut relays = Vec::with_capacity(plan.relays);
        for (number, region) in (1..=plan.relays).zip(plan.regions.iter().cycle()) {
            let config = RelayConfig {
                id: format!("relay-{number}"),
                region: region.clone(),
                host: format!("host-{number}"),
                listen: FREE_PORT,
                mesh_listen: FREE_PORT,
                advertise: None,
                mesh_advertise: None,
                admin: Some(FREE_PORT),
                nodes: 1,
                capacity: 1,
                clients_max: CLIENTS_PER_NODE_MAX,
                max_batch_delay: plan.max_batch_delay,
                rates: MemberRates::default(),
                quotas: Quotas::default(),
                always_retry: false,
                cluster_key: cluster_key.clone(),
                keys: keys.clone(),
                directory: Arc::new(directory.clone()),
            };
            relays.push(Relay::start(config).await?);
        }
        let all = auth.relays_listed(plan.relays);
        if tokio::time::timeout(READY_WITHIN, all).await.is_err() {
            return Err(Failure::Unavailable(not_ready(&relays)));
        }
        Ok(Self {
            auth,
            relays,
            _expiry: expiry,
        })
    }

    pub(crate) fn auth_url(&self) -> String {
        format!("http://{}", self.auth.local_addr())
    }

    /// One node for each relay, in their order.
    pub(crate) fn nodes(&self) -> Vec<NodeInfo> {
        self.relays.iter().flat_map(Relay::nodes).collect()
    }

    /// Where each relay serves its operator's pages.
    pub(crate) fn admins(&self) -> Vec<SocketAddr> {
        let admins = self.relays.iter().map(Relay::admin_address);
        admins.flatten().collect()
    }

    /// What each node counted, and the CPU time that its thread used.
    pub(crate) fn work(&self) -> Vec<Work> {
        let of_relay = |relay: &Relay| {
            let cpu = relay.cpu_time();
            let stats = relay.stats().into_iter();
            stats.map(move |(node, stats)| Work {
                node_id: node.to_string(),
                stats,
                cpu,
            })
        };
        self.relays.iter().flat_map(of_relay).collect()
    }

    /// Stops the relays at the same time, then auth.
    pub(crate) async fn stop(self) {
        let stopping: JoinSet<()> = self.relays.into_iter().map(Relay::stop).collect();
        stopping.join_all().await;
        self.auth.shutdown().await;
    }
}

/// What a node did since its start.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    pub(crate) node_id: String,
    pub(crate) stats: Stats,
    pub(crate) cpu: Duration,
}

const FREE_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// The default of `--auth` in the examples.
const AUTH_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7_000);

/// Auth where the examples look for it, or on a free port if that one is taken.
async fn start_auth(config: Config) -> Result<Auth, Error> {
    let usual = Config {
        listen: AUTH_LISTEN,
        ..config.clone()
    };
    match Auth::start(usual).await {
        Err(error) if error.code() == ErrorCode::AddressInUse => Auth::start(config).await,
        started => started,
    }
}

/// An empty directory on the wall clock.
pub(crate) fn memory_directory() -> MemoryDirectory {
    let now = || {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let us = since.unwrap_or_default().as_micros();
        Timestamp(u64::try_from(us).unwrap_or(u64::MAX))
    };
    MemoryDirectory::new(now, rand::random::<u32>)
}

fn not_ready(relays: &[Relay]) -> String {
    let causes: Vec<String> = relays
        .iter()
        .filter_map(|relay| relay.readiness().err())
        .collect();
    format!(
        "the relays did not register within {READY_WITHIN:?}: {}",
        causes.join("; ")
    )
}
