//! Members who send as fast as they can: their own messages wait or go, nobody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dreamcatcher_client::{ErrorCode, Event, Mode, Session, Target};
use dreamcatcher_relay::RelayConfig;

use crate::setup::{
    config, connect, created_in, memory, next_message, start, stats, until, within_deadline,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_who_flood_do_not_hurt_the_others_on_their_link() {
    let directory = Arc::new(memory());
    let owner = start(config("eu", directory.clone())).await;
    let gateway = start(config("us", directory.clone())).await;
    let (ann, bob) = (connect(1, &owner).await, connect(2, &gateway).await);
    let mut hers = created_in(&ann, "eu").await;
    let code = hers.code().unwrap().to_string();
    let mut his = bob.join_code(&code).await.unwrap();

    // Their own session, over the same link.
    let first = connect(10, &gateway).await;
    let flooded = created_in(&first, "eu").await;
    let code = flooded.code().unwrap().to_string();
    let (second, third) = (connect(11, &gateway).await, connect(12, &gateway).await);
    let mut flooders = vec![flooded];
    flooders.push(second.join_code(&code).await.unwrap());
    flooders.push(third.join_code(&code).await.unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let flooding: Vec<_> = flooders
        .into_iter()
        .map(|session| tokio::spawn(flood(session, Arc::clone(&stop))))
        .collect();
    until("a flood", || {
        stats(&gateway).over_budget_dropped_total > 1_000
    })
    .await;

    for round in 0..20 {
        let text = format!("round {round}");
        his.send(Mode::Ordered, Target::All, text.clone()).unwrap();
        assert_eq!(next_message(&mut hers).await, text);
        assert_eq!(next_message(&mut his).await, text);
    }
    stop.store(true, Ordering::Relaxed);
    for flooding in flooding {
        within_deadline(flooding).await.unwrap();
    }
    for relay in [&owner, &gateway] {
        let stats = stats(relay);
        assert_eq!((stats.links, stats.links_redialled_total), (1, 0));
    }
    owner.kill();
    gateway.kill();
}

/// Latest and Datagram, large and small, while somebody reads.
async fn flood(mut session: Session, stop: Arc<AtomicBool>) {
    let sender = session.sender();
    let mut due = tokio::time::interval(Duration::from_millis(5));
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        for _ in 0..20 {
            // What the SDK itself has no room for is not the relay's to drop.
            let _ = sender.send(Mode::Datagram, Target::Others, vec![0; 1_000]);
            let _ = sender.send(Mode::Latest, Target::Others, vec![0; 200]);
        }
        while let Some(event) = session.poll() {
            assert!(!matches!(event, Event::Ended { .. }), "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reliable_flood_arrives_whole_at_the_rate_that_is_allowed() {
    const MESSAGES: u32 = 5_000;
    let relay = start(config("eu", Arc::new(memory()))).await;
    let (ann, bob) = (connect(1, &relay).await, connect(2, &relay).await);
    let hers = created_in(&ann, "eu").await;
    let mut his = bob
        .join_code(&hers.code().unwrap().to_string())
        .await
        .unwrap();
    let started = Instant::now();
    let sender = hers.sender();
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            while let Err(error) = sender.send(Mode::Reliable, Target::Others, number.to_string()) {
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    for number in 0..MESSAGES {
        assert_eq!(next_message(&mut his).await, number.to_string());
    }
    within_deadline(sending).await.unwrap();
    // 2,000 are saved up, the rest comes at 1,000 a second.
    assert!(
        started.elapsed() > Duration::from_millis(2_500),
        "{:?}",
        started.elapsed()
    );
    let stats = stats(&relay);
    assert!(stats.over_budget_pauses_total > 0);
    assert!(!stats.errors_total.contains_key(&ErrorCode::RateLimited));
    drop(hers);
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_stop_for_ten_seconds_is_closed_with_rate_limited() {
    let mut config = config("eu", Arc::new(memory()));
    // Two hundred in all, saved up and coming back, before the ten seconds are over.
    config.rates.messages_per_s = 20;
    let relay = start(RelayConfig { ..config }).await;
    let ann = connect(1, &relay).await;
    let hers = created_in(&ann, "eu").await;
    let sender = hers.sender();
    let flooding = tokio::spawn(async move {
        loop {
            let _ = sender.send(Mode::Reliable, Target::All, "more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    until("closed", || {
        stats(&relay)
            .errors_total
            .contains_key(&ErrorCode::RateLimited)
    })
    .await;
    flooding.abort();
    relay.kill();
}
