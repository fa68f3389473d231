//! A mesh as an operator runs it: Redis, Postgres, auth and relays, each a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dreamcatcher_servers::{Postgres, Redis};
use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::client::{Client, RelayAddress};
use crate::process::{Process, answer, http_client, relay_address};
use crate::within;

const ANYWHERE: &str = "127.0.0.1:0";
/// Between two looks at something that only a look can tell.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Everything that runs. It ends with this value.
#[derive(Debug)]
pub struct Cluster {
    pub redis: Redis,
    pub postgres: Option<Postgres>,
    pub auth: Process,
    pub relays: Vec<Relay>,
    auth_url: String,
    http: reqwest::Client,
    folder: TempDir,
}

/// One relay, with one node.
#[derive(Debug)]
pub struct Relay {
    pub id: String,
    pub process: Process,
    pub address: RelayAddress,
    pub admin: String,
}

/// How a relay differs from the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extra<'a> {
    pub arguments: &'a [&'a str],
    pub environment: &'a [(&'a str, &'a str)],
}

impl Cluster {
    /// `relays` relays `relay-1`, `relay-2` …, with users in memory.
    pub async fn start(relays: usize) -> Self {
        Self::start_on(Redis::start(), None, relays).await
    }

    /// The same, with users in Postgres.
    pub async fn start_with_postgres(relays: usize) -> Self {
        let postgres = Postgres::start();
        let migrated = Process::start(&["auth", "migrate", "--store", &postgres.url()]);
        let migrated = migrated.ended().await;
        assert_eq!(migrated.status, Some(0), "{}", migrated.stderr);
        Self::start_on(Redis::start(), Some(postgres), relays).await
    }

    async fn start_on(redis: Redis, postgres: Option<Postgres>, relays: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = postgres
            .as_ref()
            .map_or_else(|| "memory".to_owned(), Postgres::url);
        let mut auth = Process::start(&[
            "auth",
            "--listen",
            ANYWHERE,
            "--admin",
            ANYWHERE,
            "--store",
            &store,
            "--directory",
            &redis.url(),
        ]);
        let line = auth.said("auth is listening on ").await;
        let auth_url = line
            .split_whitespace()
            .last()
            .expect("an address")
            .to_owned();
        let key = Process::start(&["keygen", "--out", &path(&folder, "cluster.key")]);
        assert_eq!(key.ended().await.status, Some(0));
        let mut cluster = Self {
            redis,
            postgres,
            auth,
            relays: Vec::new(),
            auth_url,
            http: http_client(),
            folder,
        };
        for _ in 0..relays {
            cluster.add_relay(Extra::default()).await;
        }
        cluster
    }

    /// Starts one more relay and waits until players are told of it.
    pub async fn add_relay(&mut self, extra: Extra<'_>) -> &mut Relay {
        let relay = self.relay(self.relays.len() + 1, extra).await;
        self.relays.push(relay);
        self.relays.last_mut().expect("it was added")
    }

    async fn relay(&self, number: usize, extra: Extra<'_>) -> Relay {
        let id = format!("relay-{number}");
        let (mut process, _) = self.start_relay(&id, extra);
        let line = process.said("admin pages are on ").await;
        let admin = line
            .split_whitespace()
            .last()
            .expect("an address")
            .to_owned();
        let node = format!("{id}-0");
        let address = eventually("the relay is listed", async || {
            let list = self.get("/v1/relays").await;
            let relays = list["relays"].as_array().expect("a list").iter();
            relays
                .clone()
                .find(|relay| relay["node_id"] == node.as_str())
                .map(relay_address)
        })
        .await;
        Relay {
            id,
            process,
            address,
            admin,
        }
    }

    /// Starts a relay's process, and waits for nothing. With it: the arguments.
    #[must_use]
    pub fn start_relay(&self, id: &str, extra: Extra<'_>) -> (Process, Vec<String>) {
        let host = format!("host-of-{id}");
        let redis = self.redis.url();
        let jwks = format!("{}/.well-known/jwks.json", self.auth_url);
        let key = path(&self.folder, "cluster.key");
        let usual = [
            ("--id", id),
            ("--host", &host),
            ("--nodes", "1"),
            ("--listen", ANYWHERE),
            ("--mesh-listen", ANYWHERE),
            ("--admin", ANYWHERE),
            ("--directory", &redis),
            ("--jwks", &jwks),
            ("--cluster-key-file", &key),
        ];
        let mut arguments = vec!["relay".to_owned()];
        for (flag, value) in usual {
            if !extra.arguments.contains(&flag) {
                arguments.extend([flag.to_owned(), value.to_owned()]);
            }
        }
        arguments.extend(extra.arguments.iter().map(|&argument| argument.to_owned()));
        let line: Vec<&str> = arguments.iter().map(String::as_str).collect();
        (Process::start_with(&line, extra.environment), arguments)
    }

    /// Where files of this cluster can be put.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[must_use]
    pub fn auth_url(&self) -> &str {
        &self.auth_url
    }

    /// Takes the relay with this node id out of the cluster: to kill it.
    pub fn take(&mut self, node: &str) -> Relay {
        let at = self
            .relays
            .iter()
            .position(|relay| node == format!("{}-0", relay.id));
        self.relays
            .remove(at.unwrap_or_else(|| panic!("there is no {node}")))
    }

    /// The number of the relay with this node id.
    #[must_use]
    pub fn number(&self, node: &str) -> usize {
        let is_it = |relay: &Relay| node == format!("{}-0", relay.id);
        let found = self.relays.iter().position(is_it);
        found.unwrap_or_else(|| panic!("there is no {node}"))
    }

    /// The access token of a new guest.
    pub async fn token(&self, name: &str) -> String {
        static GUESTS: AtomicU64 = AtomicU64::new(0);
        let number = GUESTS.fetch_add(1, Ordering::Relaxed);
        let guest = json!({"secret": format!("{number:032}"), "display_name": name});
        let answer = self.post("/v1/guest", &guest).await;
        assert_eq!(answer.status(), 200, "{answer:?}");
        let answer: Value = read(answer).await;
        answer["access_token"]
            .as_str()
            .unwrap_or_else(|| panic!("no token: {answer}"))
            .to_owned()
    }

    /// A client with a new guest's token, on the relay with this number.
    pub async fn client(&self, relay: usize, name: &str) -> Client {
        Client::hello(&self.relays[relay].address, &self.token(name).await).await
    }

    pub async fn get(&self, route: &str) -> Value {
        answer(self.http.get(format!("{}{route}", self.auth_url))).await
    }

    /// Any answer, whatever its status.
    pub async fn post(&self, route: &str, body: &Value) -> Response {
        let request = self.http.post(format!("{}{route}", self.auth_url));
        let request = request
            .header("content-type", "application/json")
            .body(body.to_string());
        within("an HTTP answer", request.send())
            .await
            .unwrap_or_else(|e| panic!("{route}: {e}"))
    }

    /// The status of one of a relay's admin pages.
    pub async fn page(&self, relay: usize, route: &str) -> (u16, String) {
        let url = format!("{}{route}", self.relays[relay].admin);
        let response = within("an admin page", self.http.get(&url).send())
            .await
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        let status = response.status().as_u16();
        (status, response.text().await.expect("text"))
    }
}

/// The JSON of an answer.
pub async fn read(response: Response) -> Value {
    let text = response.text().await.expect("text");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
}

/// What `look` sees at last. For what no event tells: pages, lists, keys in Redis.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let seen = async {
        let mut due = tokio::time::interval(LOOK_EVERY);
        loop {
            due.tick().await;
            if let Some(seen) = look().await {
                return seen;
            }
        }
    };
    tokio::time::timeout(PATIENCE, seen)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// The loopback address with this port.
#[must_use]
pub fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn path(folder: &TempDir, name: &str) -> String {
    let path = folder.path().join(name);
    path.to_str().expect("a UTF-8 path").to_owned()
}
