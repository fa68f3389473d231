//! What a request costs on loopback: `cargo test -p dreamcatcher-directory --features redis -- \
//! --ignored --nocapture measure`.

#![expect(clippy::unwrap_used, reason = "a test that fails says where")]

use std::time::{Duration, Instant};

use dreamcatcher_proto::SessionId;
use dreamcatcher_servers::Redis;

use super::start;
use crate::conformance::{holder, new_session, node};
use crate::{Directory, Holder, Load, NewSession, Renewal, Reply, Request};

const REQUESTS: u32 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures: for a machine that does nothing else"]
async fn measure_renewals_and_creations() {
    let redis = Redis::start();
    let directory = start(&redis.url()).await;
    let owner = holder("a", 1);
    let register = Request::Register(node(&owner));
    assert_eq!(directory.call(register).await, Ok(Reply::Done));
    for callers in [1, 32] {
        measure(&directory, "renew", callers, |number| renew(&owner, number)).await;
        measure(&directory, "create", callers, |number| {
            create(&owner, callers, number)
        })
        .await;
    }
    let key = redis.cli(&["--raw", "randomkey"]);
    println!("{key}: {} B", redis.cli(&["memory", "usage", &key]));
    for section in ["commandstats", "memory"] {
        println!("{}", redis.cli(&["info", section]));
    }
}

async fn measure(
    directory: &super::RedisDirectory,
    what: &str,
    callers: u32,
    request: impl Fn(u32) -> Request,
) {
    let since = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let directory = directory.clone();
            let requests: Vec<_> = (0..REQUESTS / callers)
                .map(|number| request(number * callers + caller))
                .collect();
            tokio::spawn(async move {
                let mut took = Vec::new();
                for request in requests {
                    let since = Instant::now();
                    directory.call(request).await.unwrap();
                    took.push(since.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let rate = took.len() as f64 / since.elapsed().as_secs_f64();
    took.sort();
    let at = |share: f64| took[(share * (took.len() - 1) as f64) as usize];
    println!(
        "{what} by {callers}: {rate:.0}/s, p50 {:?}, p99 {:?}, max {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn renew(owner: &Holder, number: u32) -> Request {
    Request::Renew(Renewal {
        holder: owner.clone(),
        load: Load {
            sessions: number,
            clients: number,
        },
        draining: false,
        certificate_sha256: vec![[7; 32]],
    })
}

fn create(owner: &Holder, callers: u32, number: u32) -> Request {
    let Request::CreateSession(new) = new_session(1, owner) else {
        unreachable!()
    };
    let number = u128::from(callers) << 64 | u128::from(number);
    Request::CreateSession(NewSession {
        id: SessionId(number.to_be_bytes()),
        ..new
    })
}
