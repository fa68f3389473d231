//! A relay starts, serves its operator, and ends, in good order or not.
#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::collections::BTreeSet;
use std::future::Future;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_directory::{
    Change, Directory, Hint, MemoryDirectory, NodeRecord, Reply, Request, Timestamp,
};
use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::token::{KeySet, Signer};
use dreamcatcher_relay::identity::ClusterKey;
use dreamcatcher_relay::metrics::TABLE;
use dreamcatcher_relay::{MemberRates, Quotas, Relay, RelayConfig, StartError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes: whoever waits this long waits for ever.
const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_relay_on_free_ports_registers_what_it_says_of_itself_and_deregisters_when_it_stops() {
    let directory = directory();
    let mut hints = directory.watch();
    let relay = start(on("127.0.0.2:0", &directory)).await;
    ready(&relay).await;
    let nodes = relay.nodes();
    let records = listed(&directory).await;
    assert_eq!(nodes.len(), 2);
    for (k, (node, record)) in nodes.iter().zip(&records).enumerate() {
        assert_eq!(node.id.as_str(), format!("r-{k}"));
        assert_eq!((&node.id, node.boot), (&record.id, record.boot));
        assert_eq!(node.address, record.address);
        assert_eq!(node.mesh_address, record.mesh_address);
        assert_eq!(node.certificate_sha256, record.certificate_sha256);
        assert_eq!(node.certificate_sha256.len(), 1);
        assert_eq!((&*record.host, &*record.region), ("h1", "eu"));
    }
    let addresses: BTreeSet<SocketAddr> = nodes
        .iter()
        .flat_map(|n| [n.address, n.mesh_address])
        .collect();
    assert_eq!(addresses.len(), 4);

    within_deadline(relay.stop()).await;
    assert_eq!(listed(&directory).await, []);
    let mut gone = 0;
    while let Some(hint) = hints.try_next() {
        gone += usize::from(matches!(hint, Hint::Changed(Change::NodeGone(_))));
    }
    assert_eq!(gone, 2);
    for address in addresses {
        assert!(UdpSocket::bind(address).is_ok(), "{address} is not free");
    }
}

#[tokio::test]
async fn a_killed_relay_tells_nobody_and_leaves_no_thread_or_socket() {
    let directory = directory();
    let relay = start(RelayConfig {
        id: "killed".to_owned(),
        ..on("127.0.0.3:0", &directory)
    })
    .await;
    ready(&relay).await;
    assert!(threads().contains("killed-0"));
    let before = listed(&directory).await;
    let mut hints = directory.watch();
    let nodes = relay.nodes();
    relay.kill();
    assert!(!threads().contains("killed-0"));
    assert_eq!(listed(&directory).await, before);
    assert_eq!(hints.try_next(), None);
    for node in nodes {
        assert!(UdpSocket::bind(node.address).is_ok());
        assert!(UdpSocket::bind(node.mesh_address).is_ok());
    }
}

#[tokio::test]
async fn both_ports_speak_quic_from_the_moment_that_the_relay_is_up() {
    let relay = start(config(&directory())).await;
    // A version that nobody speaks asks for Version Negotiation (RFC 8999, 6).
    let mut probe = vec![0; 1_200];
    probe[..16].copy_from_slice(&[
        0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 4, 1, 2, 3, 4, 4, 5, 6, 7, 8, 0,
    ]);
    for node in relay.nodes() {
        for address in [node.address, node.mesh_address] {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&probe, address).await.unwrap();
            let mut answer = [0; 1_500];
            let (size, from) = within_deadline(socket.recv_from(&mut answer))
                .await
                .unwrap();
            assert_eq!(from, address);
            assert!(size < 100, "an answer of {size} bytes");
            assert_eq!(answer[1..5], [0; 4], "not Version Negotiation");
        }
    }
    relay.kill();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_flag() {
    let directory = directory();
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = tcp.local_addr().unwrap();
    let one = || RelayConfig {
        nodes: 1,
        ..config(&directory)
    };
    let cases = [
        (
            RelayConfig {
                listen: taken,
                ..one()
            },
            taken,
            "--listen",
        ),
        (
            RelayConfig {
                mesh_listen: taken,
                ..one()
            },
            taken,
            "--mesh-listen",
        ),
        (
            RelayConfig {
                admin: Some(admin),
                ..one()
            },
            admin,
            "--admin",
        ),
    ];
    for (config, at, named) in cases {
        let error = Relay::start(config).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::AddressInUse);
        let text = error.to_string();
        assert!(
            text.contains(&at.to_string()) && text.contains(named),
            "{text}"
        );
        assert!(
            matches!(&error, StartError::AddressInUse { address, flag } if *address == at && *flag == named)
        );
    }
    assert_eq!(listed(&directory).await, []);
    drop(holder);
}

#[tokio::test]
async fn a_wildcard_address_must_be_advertised_as_another() {
    let directory = directory();
    let any = "0.0.0.0:0".parse().unwrap();
    let mut config = config(&directory);
    config.listen = any;
    let error = Relay::start(config.clone()).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::InvalidConfig);
    assert!(error.to_string().contains("pass --advertise"), "{error}");

    config.mesh_listen = any;
    config.advertise = Some("127.0.0.9:0".parse().unwrap());
    config.mesh_advertise = Some("127.0.0.9:700".parse().unwrap());
    let relay = start(config).await;
    let nodes = relay.nodes();
    assert!(
        nodes
            .iter()
            .all(|node| node.address.ip().to_string() == "127.0.0.9")
    );
    assert!(
        nodes.iter().all(|node| node.address.port() != 0),
        "the bound port"
    );
    assert_eq!(nodes[1].mesh_address, "127.0.0.9:701".parse().unwrap());
    relay.kill();
}

#[tokio::test]
async fn each_value_outside_its_range_is_named() {
    let directory = directory();
    let valid = || config(&directory);
    let cases = [
        (
            RelayConfig {
                id: "Röhre".to_owned(),
                ..valid()
            },
            "node id",
        ),
        (
            RelayConfig {
                region: "EU!".to_owned(),
                ..valid()
            },
            "region",
        ),
        (
            RelayConfig {
                host: String::new(),
                ..valid()
            },
            "host",
        ),
        (
            RelayConfig {
                nodes: 0,
                ..valid()
            },
            "nodes 0 must be 1–256",
        ),
        (
            RelayConfig {
                nodes: 257,
                ..valid()
            },
            "nodes 257 must be 1–256",
        ),
        (
            RelayConfig {
                capacity: 0,
                ..valid()
            },
            "capacity 0 must be 1–",
        ),
        (
            RelayConfig {
                clients_max: 20_001,
                ..valid()
            },
            "clients_max 20001 must be 1–20000",
        ),
        (
            RelayConfig {
                max_batch_delay: Duration::from_millis(21),
                ..valid()
            },
            "max_batch_delay 21ms must be at most 20ms",
        ),
        (
            RelayConfig {
                listen: "127.0.0.1:65535".parse().unwrap(),
                ..valid()
            },
            "no port for node 1",
        ),
        (
            RelayConfig {
                listen: "203.0.113.1:0".parse().unwrap(),
                ..valid()
            },
            "--listen 203.0.113.1:0",
        ),
    ];
    for (config, says) in cases {
        let error = Relay::start(config).await.err().unwrap();
        assert_eq!(error.code(), ErrorCode::InvalidConfig, "{error}");
        assert!(
            error.to_string().contains(says),
            "{error} should say {says:?}"
        );
    }
}

#[tokio::test]
async fn the_operator_sees_life_readiness_metrics_and_sessions() {
    let directory = directory();
    directory.set_down(true);
    let relay = start(config(&directory)).await;
    let admin = relay.admin_address().unwrap();
    assert_eq!(get(admin, "/livez").await, (200, "ok\n".to_owned()));
    let (status, cause) = get(admin, "/readyz").await;
    assert_eq!(status, 503);
    assert!(
        cause.starts_with("r-0: ") && cause.contains("\nr-1: "),
        "{cause}"
    );

    directory.set_down(false);
    ready(&relay).await;
    assert_eq!(get(admin, "/readyz").await, (200, "ok\n".to_owned()));
    let sessions = r#"[{"node":"r-0","sessions":[]},{"node":"r-1","sessions":[]}]"#;
    assert_eq!(
        get(admin, "/debug/sessions").await,
        (200, sessions.to_owned())
    );
    assert_eq!(get(admin, "/nothing").await.0, 404);

    let (status, text) = get(admin, "/metrics").await;
    assert_eq!(status, 200);
    for line in text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let name = line.split(['{', ' ']).next().unwrap();
        let is_of = |metric: &str| {
            name == metric
                || ["_bucket", "_sum", "_count"]
                    .iter()
                    .any(|s| name == format!("{metric}{s}"))
        };
        let metric = TABLE.iter().find(|metric| is_of(metric.name));
        let metric = metric.unwrap_or_else(|| panic!("{line} is in no table"));
        assert!(
            text.contains(&format!("# HELP {} ", metric.name)),
            "{line} is not described"
        );
        assert!(
            line.contains("node=\"r-0\"")
                || line.contains("node=\"r-1\"")
                || name.starts_with("dreamcatcher_keys_"),
            "{line}"
        );
    }
    assert!(
        text.contains("dreamcatcher_registered{node=\"r-0\"} 1"),
        "{text}"
    );
    assert!(relay.cpu_time() > Duration::ZERO);
    let counted: Vec<String> = relay
        .stats()
        .iter()
        .map(|(node, _)| node.to_string())
        .collect();
    assert_eq!(counted, ["r-0", "r-1"]);
    relay.kill();
}

/// A directory whose leases last: nobody runs its expiry.
fn directory() -> MemoryDirectory {
    let mut word = 0_u32;
    let random = move || {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        word
    };
    MemoryDirectory::new(|| Timestamp(1_800_000_000_000_000), random)
}

fn config(directory: &MemoryDirectory) -> RelayConfig {
    on("127.0.0.1:0", directory)
}

/// A test that looks whether its ports are free again has an address of its own, so that no other test
/// takes them meanwhile.
fn on(any: &str, directory: &MemoryDirectory) -> RelayConfig {
    let any: SocketAddr = any.parse().unwrap();
    let signer = Signer::from_seed("k1", &[7; 32]).unwrap();
    let keys = KeySet::from_jwks(&Signer::jwks([&signer]).unwrap()).unwrap();
    RelayConfig {
        id: "r".to_owned(),
        region: "eu".to_owned(),
        host: "h1".to_owned(),
        listen: any,
        mesh_listen: any,
        advertise: None,
        mesh_advertise: None,
        admin: Some(any),
        nodes: 2,
        capacity: 100,
        clients_max: 1_000,
        max_batch_delay: Duration::from_millis(1),
        rates: MemberRates::default(),
        quotas: Quotas::default(),
        always_retry: false,
        cluster_key: ClusterKey([7; 32]),
        keys: Arc::new(keys).into(),
        directory: Arc::new(directory.clone()),
    }
}

async fn start(config: RelayConfig) -> Relay {
    Relay::start(config).await.unwrap()
}

async fn within_deadline<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap()
}

async fn ready(relay: &Relay) {
    let deadline = Instant::now() + DEADLINE;
    while let Err(cause) = relay.readiness() {
        assert!(Instant::now() < deadline, "{cause}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn listed(directory: &MemoryDirectory) -> Vec<NodeRecord> {
    match directory.call(Request::Nodes).await {
        Ok(Reply::Nodes(records)) => records,
        other => panic!("{other:?}"),
    }
}

/// Names of this process's threads.
fn threads() -> BTreeSet<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks
        .flatten()
        .filter_map(name)
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Status and body of a GET.
async fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    within_deadline(async {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.read_to_string(&mut answer).await.unwrap();
    })
    .await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}
