//! The ways in which Redis is run: with TLS, behind sentinels, as a cluster, with replicas.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dreamcatcher_servers::Redis;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use secrecy::SecretString;
use tempfile::TempDir;

use super::{connected, refused_within, start, until};
use crate::conformance::{holder, new_session, node};
use crate::redis::{RedisConfig, RedisDirectory};
use crate::{Directory, DirectoryError, Hint, Reply, Request};

#[tokio::test]
async fn tls_is_spoken_with_a_server_whose_authority_is_known_and_with_no_other() {
    let files = Certificates::new();
    let port = free_port();
    // Without a plain port: the server's own is for TLS.
    let _redis = Redis::start_with(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &files.path("server.pem"),
        "--tls-key-file",
        &files.path("server.key"),
        "--tls-ca-cert-file",
        &files.path("ca.pem"),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "secret",
    ]);
    let mut config = RedisConfig::new(&format!("rediss://localhost:{port}"));
    config.password = Some(SecretString::from("secret"));
    config.ca_file = Some(files.path("ca.pem").into());
    let directory = connected(config.clone()).await;
    register(&directory, "a").await;

    config.ca_file = Some(files.path("other.pem").into());
    let stranger = RedisDirectory::start(config).unwrap();
    let mut cause = String::new();
    until("it is refused", async || {
        cause = refused_within(Duration::from_secs(1), &stranger, Request::Nodes).await;
        !cause.contains("not connected yet")
    })
    .await;
    assert!(cause.contains("certificate"), "{cause}");
}

#[tokio::test]
async fn sentinels_are_asked_for_the_master_again_after_a_failover() {
    let first = master();
    let second = replica_of(&first);
    let sentinel = Sentinel::start(first.address());
    let url = format!("redis+sentinel://{}/mymaster", sentinel.address);
    let directory = start(&url).await;
    register(&directory, "a").await;
    assert!(first.cli(&["exists", "{dreamcatcher}:node:a"]) == "1");

    until("the sentinel takes the order", async || {
        sentinel.cli(&["sentinel", "failover", "mymaster"]) == "OK"
    })
    .await;
    until("the replica is the master", async || {
        second.cli(&["info", "replication"]).contains("role:master")
    })
    .await;
    until("a change reaches the new master", async || {
        let _ = directory
            .call(Request::Register(node(&holder("b", 1))))
            .await;
        second.cli(&["exists", "{dreamcatcher}:node:b"]) == "1"
    })
    .await;

    let unknown =
        RedisDirectory::start(RedisConfig::new(&url.replace("mymaster", "other"))).unwrap();
    let cause = refused_within(Duration::from_secs(1), &unknown, Request::Nodes).await;
    assert!(cause.contains("\"other\""), "{cause}");
}

#[tokio::test]
async fn a_cluster_s_word_on_where_the_slot_is_is_followed() {
    let (first, _) = cluster_node();
    let (second, bus) = cluster_node();
    assert_eq!(first.cli(&["cluster", "addslotsrange", "0", "16383"]), "OK");
    let port = second.address().port().to_string();
    let meet = ["cluster", "meet", "127.0.0.1", &port, &bus];
    assert_eq!(first.cli(&meet), "OK");
    until("the cluster is up on both", async || {
        let up = |node: &Redis| node.cli(&["cluster", "info"]).contains("cluster_state:ok");
        up(&first) && up(&second) && second.cli(&["cluster", "slots"]).contains("16383")
    })
    .await;

    // Found by way of the node that does not have it.
    let directory = start(&format!("redis+cluster://{}", second.address())).await;
    register(&directory, "a").await;
    assert_eq!(first.cli(&["exists", "{dreamcatcher}:node:a"]), "1");
    let plain = RedisDirectory::start(RedisConfig::new(&second.url())).unwrap();
    let cause = refused_within(Duration::from_secs(1), &plain, Request::Nodes).await;
    assert!(cause.contains("redis+cluster://"), "{cause}");
    drop(plain);

    let mut watch = directory.watch();
    let slot = first.cli(&["cluster", "keyslot", "{dreamcatcher}:meta"]);
    let id = second.cli(&["cluster", "myid"]);
    // A slot moves once it is empty; the relay's clock goes on asking meanwhile.
    until("the slot has moved", async || {
        let _ = first.cli(&["flushall"]);
        first.cli(&["cluster", "setslot", &slot, "node", &id]) == "OK"
    })
    .await;
    assert_eq!(
        second.cli(&["cluster", "setslot", &slot, "node", &id]),
        "OK"
    );
    until("a change reaches the node that has it now", async || {
        let _ = directory
            .call(Request::Register(node(&holder("b", 1))))
            .await;
        second.cli(&["exists", "{dreamcatcher}:node:b"]) == "1"
    })
    .await;
    assert_eq!(
        watch.try_next(),
        Some(Hint::Missed(0)),
        "it is not the directory that it was"
    );
}

#[tokio::test]
async fn a_change_counts_once_a_replica_has_it() {
    let master = master();
    let mut config = RedisConfig::new(&master.url());
    config.wait_replicas = 1;
    let directory = RedisDirectory::start(config).unwrap();
    until("it is connected", async || directory.check().await.is_ok()).await;
    let a = holder("a", 1);
    let register = || Request::Register(node(&a));
    let cause = refused_within(Duration::from_secs(1), &directory, register()).await;
    assert!(cause.contains("0 of 1 replicas"), "{cause}");
    assert_eq!(
        directory.call(Request::Nodes).await,
        Ok(Reply::Nodes(vec![node(&a)])),
        "it may have happened; what changes nothing waits for nobody"
    );

    let replica = replica_of(&master);
    until("it counts", async || {
        directory.call(register()).await == Ok(Reply::Done)
    })
    .await;
    assert_eq!(replica.cli(&["exists", "{dreamcatcher}:node:a"]), "1");
    let created = directory.call(new_session(1, &a)).await;
    assert!(matches!(created, Ok(Reply::Created { .. })), "{created:?}");

    replica.freeze();
    let unconfirmed = directory.call(new_session(2, &a)).await;
    let Err(DirectoryError::Unavailable { cause }) = unconfirmed else {
        panic!("{unconfirmed:?}")
    };
    assert!(cause.contains("0 of 1 replicas"), "{cause}");
    replica.thaw();
    until("a repeated request finds that it happened", async || {
        let _ = directory.call(register()).await;
        matches!(
            directory.call(new_session(2, &a)).await,
            Ok(Reply::Exists(_))
        )
    })
    .await;
}

#[tokio::test]
async fn of_several_servers_the_one_that_takes_changes_is_used() {
    let master = master();
    let replica = replica_of(&master);
    let url = format!("redis://{},{}", replica.address(), master.address());
    let directory = start(&url).await;
    register(&directory, "a").await;
    assert_eq!(master.cli(&["exists", "{dreamcatcher}:node:a"]), "1");
}

async fn register(directory: &RedisDirectory, name: &str) {
    let register = Request::Register(node(&holder(name, 1)));
    assert_eq!(directory.call(register).await, Ok(Reply::Done));
}

/// A server whose replicas need not wait for each other.
fn master() -> Redis {
    Redis::start_with(&["--repl-diskless-sync-delay", "0"])
}

fn replica_of(master: &Redis) -> Redis {
    let port = master.address().port().to_string();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
    let since = std::time::Instant::now();
    while !replica
        .cli(&["info", "replication"])
        .contains("master_link_status:up")
    {
        assert!(
            since.elapsed() < super::DEADLINE,
            "the replica does not follow"
        );
        std::thread::yield_now();
    }
    replica
}

/// With the port on which the others talk to it.
fn cluster_node() -> (Redis, String) {
    let bus = free_port().to_string();
    let node = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &bus]);
    (node, bus)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A sentinel that watches one master alone.
struct Sentinel {
    process: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Sentinel {
    fn start(master: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let file = directory.path().join("sentinel.conf");
        let text = format!(
            "bind 127.0.0.1\nport {port}\ndir {}\n\
             sentinel monitor mymaster 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds mymaster 5000\n\
             sentinel failover-timeout mymaster 10000\n",
            directory.path().display(),
            master.port()
        );
        std::fs::write(&file, text).unwrap();
        let process = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            address: ([127, 0, 0, 1], port).into(),
            _directory: directory,
        }
    }

    /// What it says, an error included: it may not be up yet.
    fn cli(&self, arguments: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args(["-p", &self.address.port().to_string()])
            .args(arguments)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An authority, a server's certificate of it, and another authority.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = server.signed_by(&key, &authority).unwrap();
        let write =
            |name: &str, pem: String| std::fs::write(directory.path().join(name), pem).unwrap();
        write("ca.pem", authority.pem());
        write("other.pem", self::authority().pem());
        write("server.pem", server.pem());
        write("server.key", key.serialize_pem());
        Self(directory)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
