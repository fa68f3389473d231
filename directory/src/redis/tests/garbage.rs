//! What somebody else wrote into Redis is in force no longer than until a relay comes by.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use dreamcatcher_servers::Redis;
use tracing::field::{Field, Visit};
use tracing::span;

use super::start;
use crate::conformance::{holder, new_session, node, session};
use crate::{Directory, DirectoryError, Load, Renewal, Reply, Request, limits};

const META: &str = "{dreamcatcher}:meta";
const NODE: &str = "{dreamcatcher}:node:a";
const OWNED: &str = "{dreamcatcher}:owned";

#[tokio::test]
async fn a_node_whose_record_was_garbled_is_told_to_register_and_is_there_again() {
    let lines = Lines::default();
    let _here = tracing::subscriber::set_default(lines.clone());
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let a = holder("a", 1);
    let record = node(&a);
    let renew = || {
        Request::Renew(Renewal {
            holder: a.clone(),
            load: Load::default(),
            draining: false,
            certificate_sha256: record.certificate_sha256.clone(),
        })
    };
    let register = || Request::Register(record.clone());
    assert_eq!(directory.call(register()).await, Ok(Reply::Done));
    let stored = redis.cli(&["hget", NODE, "fixed"]);
    let elsewhere = stored.replace("192.0.2.1", "192.0.2.9");
    let huge = "x".repeat(10_000);
    for garbage in [
        &["hset", NODE, "fixed", "zzz"][..],
        &["hset", NODE, "fixed", ""],
        &["hset", NODE, "fixed", "{}"],
        // As good as any, and not its own.
        &["hset", NODE, "fixed", &elsewhere],
        &["hset", NODE, "fixed", &huge],
        &["hset", NODE, "boot", "00000000000000ff"],
        &[
            "hset",
            NODE,
            "boot",
            "00000000000000ff",
            "fixed",
            &elsewhere,
        ],
        &["hset", NODE, "boot", "x"],
        &["hset", NODE, "until", "soon"],
        &["hset", NODE, "drain", "perhaps"],
        &["hset", NODE, "seal", "x"],
        &["hdel", NODE, "fixed", "state"],
        &["set", NODE, "x"],
    ] {
        let _ = redis.cli(garbage);
        lines.0.lock().unwrap().clear();
        let forgotten = Err(DirectoryError::NotRegistered(a.clone()));
        assert_eq!(directory.call(renew()).await, forgotten, "{garbage:?}");
        let said = lines.0.lock().unwrap().clone();
        assert!(said.contains(NODE), "{garbage:?}: {said}");

        assert_eq!(directory.call(register()).await, Ok(Reply::Done));
        assert_eq!(directory.call(renew()).await, Ok(Reply::Done));
        let there = Ok(Reply::Nodes(vec![record.clone()]));
        assert_eq!(directory.call(Request::Nodes).await, there, "{garbage:?}");
    }
    lines.0.lock().unwrap().clear();
    let b = holder("b", 1);
    let unknown = Err(DirectoryError::NotRegistered(b.clone()));
    assert_eq!(directory.call(new_session(1, &b)).await, unknown);
    assert_eq!(
        *lines.0.lock().unwrap(),
        "",
        "where nothing is, nothing is garbled"
    );
}

#[tokio::test]
async fn a_record_that_cannot_be_read_is_named_by_its_key() {
    let lines = Lines::default();
    let _here = tracing::subscriber::set_default(lines.clone());
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let [a, b] = ["a", "b"].map(|name| holder(name, 1));
    for holder in [&a, &b] {
        let register = Request::Register(node(holder));
        assert_eq!(directory.call(register).await, Ok(Reply::Done));
    }
    let stored = redis.cli(&["hget", NODE, "fixed"]);
    let other_s = stored.replace("\"id\":\"a\"", "\"id\":\"b\"");
    assert_ne!(stored, other_s);
    for garbage in ["zzz", &other_s] {
        let _ = redis.cli(&["hset", NODE, "fixed", garbage]);
        lines.0.lock().unwrap().clear();
        let rest = Ok(Reply::Nodes(vec![node(&b)]));
        assert_eq!(directory.call(Request::Nodes).await, rest, "{garbage}");
        let said = lines.0.lock().unwrap().clone();
        assert!(said.contains("node:a"), "{garbage}: {said}");
    }
}

#[tokio::test]
async fn no_number_in_meta_is_in_force_for_good() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let a = holder("a", 1);
    for (seed, field, garbage) in [
        (1, "sessions", "1000000000"),
        (2, "sessions", "-1000000000"),
        (3, "issued", "9007199254740000"),
        (4, "issued", "x"),
        (5, "now", "x"),
        (6, "behind", "x"),
    ] {
        let _ = redis.cli(&["hset", META, field, garbage]);
        let register = Request::Register(node(&a));
        assert_eq!(directory.call(register).await, Ok(Reply::Done));
        let created = directory.call(new_session(seed, &a)).await;
        let Ok(Reply::Created { epoch, .. }) = created else {
            panic!("{field} {garbage}: {created:?}")
        };
        let raise = Request::RaiseBallot {
            id: session(seed),
            expected: epoch,
            promised: epoch,
        };
        let raised = directory.call(raise).await;
        assert!(
            matches!(raised, Ok(Reply::Session(Some(_)))),
            "{field} {garbage}: {raised:?}"
        );
    }
}

#[tokio::test]
async fn sessions_are_refused_at_their_limit_and_taken_again_below_it() {
    let redis = Redis::start();
    let fill = "for i = 1, tonumber(ARGV[1]) do \
                redis.call('ZADD', KEYS[1], 0, 'z@0000000000000001/' .. i) end";
    let most = (limits::SESSIONS_MAX - 1).to_string();
    let _ = redis.cli(&["eval", fill, "1", OWNED, &most]);
    let directory = start(&redis.url()).await;
    let a = holder("a", 1);
    let register = Request::Register(node(&a));
    assert_eq!(directory.call(register).await, Ok(Reply::Done));
    let last = directory.call(new_session(1, &a)).await;
    let Ok(Reply::Created { epoch, .. }) = last else {
        panic!("{last:?}")
    };
    let full = DirectoryError::Full {
        what: "sessions",
        max: limits::SESSIONS_MAX,
    };
    assert_eq!(directory.call(new_session(2, &a)).await, Err(full));
    let id = session(1);
    let close = directory.call(Request::CloseSession { id, epoch }).await;
    assert_eq!(close, Ok(Reply::Done));
    let next = directory.call(new_session(2, &a)).await;
    assert!(matches!(next, Ok(Reply::Created { .. })), "{next:?}");
}

/// What is logged, line by line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

impl tracing::Subscriber for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("dreamcatcher") && *metadata.level() <= tracing::Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Fields(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Fields<'a>(&'a mut String);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0, "{field}: {value:?}").unwrap();
    }
}
