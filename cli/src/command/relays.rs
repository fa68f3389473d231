//! `dreamcatcher relays`: the nodes that are alive.

use std::time::Duration;

use dreamcatcher_directory::{Directory, NodeRecord};
use serde::Serialize;

use crate::args::RelaysArgs;
use crate::directory;
use crate::exit::Failure;
use crate::grid::grid;
use crate::out;
use crate::table::counted;

/// How often `--wait` asks again where no hint came: hints may be lost.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(crate) async fn relays(args: &RelaysArgs) -> Result<(), Failure> {
    let directory = directory::open_shared("relays", &args.inquiry.directory).await?;
    let nodes = match args.wait {
        Some(count) => wait(&*directory, count, Duration::from_secs(args.within)).await?,
        None => directory::nodes(&*directory).await?,
    };
    out::say(if args.inquiry.json {
        json(&nodes)
    } else {
        text(&nodes)
    })
}

/// The nodes once there are `count` of them. A directory that does not answer may yet.
async fn wait(
    directory: &dyn Directory,
    count: usize,
    within: Duration,
) -> Result<Vec<NodeRecord>, Failure> {
    let mut hints = directory.watch();
    let mut last = Ok(0);
    let waited = tokio::time::timeout(within, async {
        loop {
            match directory::nodes(directory).await {
                Ok(nodes) if nodes.len() >= count => return nodes,
                Ok(nodes) => last = Ok(nodes.len()),
                Err(failure) => last = Err(failure),
            }
            // What the hint says is read anew, so it does not matter whether one came.
            let _ = tokio::time::timeout(ASK_EVERY, hints.next()).await;
        }
    });
    if let Ok(nodes) = waited.await {
        return Ok(nodes);
    }
    let there = last?;
    Err(Failure::Unavailable(format!(
        "{} of {count} came within {within:?}",
        counted(there, "node")
    )))
}

fn text(nodes: &[NodeRecord]) -> String {
    if nodes.is_empty() {
        return "no relay is alive\n".to_owned();
    }
    let rows = nodes.iter().map(|node| {
        [
            node.id.to_string(),
            node.region.clone(),
            node.host.clone(),
            node.address.to_string(),
            node.mesh_address.to_string(),
            node.load.sessions.to_string(),
            format!("{}/{}", node.load.clients, node.clients_max),
            draining(node).to_owned(),
        ]
    });
    grid(
        [
            "NODE", "REGION", "HOST", "ADDRESS", "MESH", "SESSIONS", "CLIENTS", "DRAINING",
        ],
        rows,
    )
}

fn draining(node: &NodeRecord) -> &'static str {
    match (node.draining, node.drain_wanted) {
        (true, _) => "yes",
        (false, true) => "asked to",
        (false, false) => "no",
    }
}

/// The keys are stable.
fn json(nodes: &[NodeRecord]) -> String {
    #[derive(Serialize)]
    struct Relays<'a> {
        relays: Vec<Relay<'a>>,
    }
    #[derive(Serialize)]
    struct Relay<'a> {
        node_id: &'a str,
        boot_id: String,
        region: &'a str,
        host: &'a str,
        address: String,
        mesh_address: String,
        sessions: u32,
        clients: u32,
        clients_max: u32,
        capacity: u32,
        draining: bool,
        drain_wanted: bool,
        certificate_sha256: Vec<dreamcatcher_auth::CertificateHash>,
    }
    let relays = nodes.iter().map(|node| Relay {
        node_id: node.id.as_str(),
        boot_id: format!("{:016x}", node.boot.0),
        region: &node.region,
        host: &node.host,
        address: node.address.to_string(),
        mesh_address: node.mesh_address.to_string(),
        sessions: node.load.sessions,
        clients: node.load.clients,
        clients_max: node.clients_max,
        capacity: node.capacity,
        draining: node.draining,
        drain_wanted: node.drain_wanted,
        certificate_sha256: node
            .certificate_sha256
            .iter()
            .copied()
            .map(dreamcatcher_auth::CertificateHash)
            .collect(),
    });
    let relays = Relays {
        relays: relays.collect(),
    };
    out::json(&relays)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use dreamcatcher_directory::{Load, MemoryDirectory, Reply, Request};
    use dreamcatcher_proto::BootId;

    use super::*;
    use crate::mesh::memory_directory;

    #[test]
    fn a_node_is_a_row_under_its_headings() {
        let nodes = [node(1), node(12)];
        let said = text(&nodes);
        let expected = "\
NODE        REGION  HOST     ADDRESS         MESH            SESSIONS  CLIENTS  DRAINING
relay-1-0   eu      host-1   127.0.0.1:4401  127.0.0.1:4501  2         3/20000  no
relay-12-0  eu      host-12  127.0.0.1:4412  127.0.0.1:4512  2         3/20000  asked to
";
        assert_eq!(said, expected);
        assert_eq!(text(&[]), "no relay is alive\n");
    }

    #[test]
    fn json_has_a_key_for_each_column() {
        let said: serde_json::Value = serde_json::from_str(&json(&[node(12)])).unwrap();
        let relay = &said["relays"][0];
        for (key, value) in [
            ("node_id", serde_json::json!("relay-12-0")),
            ("boot_id", serde_json::json!("000000000000000c")),
            ("region", serde_json::json!("eu")),
            ("host", serde_json::json!("host-12")),
            ("address", serde_json::json!("127.0.0.1:4412")),
            ("mesh_address", serde_json::json!("127.0.0.1:4512")),
            ("sessions", serde_json::json!(2)),
            ("clients", serde_json::json!(3)),
            ("clients_max", serde_json::json!(20_000)),
            ("draining", serde_json::json!(false)),
            ("drain_wanted", serde_json::json!(true)),
            ("certificate_sha256", serde_json::json!(["07".repeat(32)])),
        ] {
            assert_eq!(relay[key], value, "{key}: {said:#}");
        }
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_node_that_is_waited_for() {
        let directory = memory_directory();
        register(&directory, 1).await;
        // `wait` looks, and finds one, before the second comes.
        let (nodes, ()) = tokio::join!(
            wait(&directory, 2, Duration::from_secs(30)),
            register(&directory, 2)
        );
        assert_eq!(nodes.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn waiting_in_vain_ends_at_the_deadline_and_says_how_many_came() {
        let directory = memory_directory();
        register(&directory, 1).await;
        let Err(Failure::Unavailable(said)) = wait(&directory, 3, Duration::from_millis(200)).await
        else {
            panic!()
        };
        assert_eq!(said, "1 node of 3 came within 200ms");
    }

    #[tokio::test]
    async fn waiting_outlives_a_directory_that_is_away_and_says_so_in_the_end() {
        let directory = memory_directory();
        directory.set_down(true);
        let waited = wait(&directory, 1, Duration::from_millis(200)).await;
        assert!(
            matches!(&waited, Err(Failure::Unavailable(said)) if said.contains("directory")),
            "{waited:?}"
        );
        let back = async {
            directory.set_down(false);
            register(&directory, 1).await;
        };
        let (nodes, ()) = tokio::join!(wait(&directory, 1, Duration::from_secs(30)), back);
        assert_eq!(nodes.unwrap().len(), 1);
    }

    async fn register(directory: &MemoryDirectory, number: u16) {
        let registered = directory.call(Request::Register(node(number))).await;
        assert_eq!(registered, Ok(Reply::Done));
    }

    fn node(number: u16) -> NodeRecord {
        let at = |port: u16| ([127, 0, 0, 1], port + number).into();
        NodeRecord {
            id: format!("relay-{number}-0").parse().unwrap(),
            boot: BootId(number.into()),
            mesh_id: 1,
            host: format!("host-{number}"),
            region: "eu".to_owned(),
            address: at(4_400),
            mesh_address: at(4_500),
            certificate_sha256: vec![[7; 32]],
            capacity: 1,
            clients_max: 20_000,
            load: Load {
                sessions: 2,
                clients: 3,
            },
            draining: false,
            drain_wanted: number == 12,
        }
    }
}
