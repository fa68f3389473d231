//! How many connections one user and one address may have.

use std::sync::Arc;

use dreamcatcher_client::ErrorCode;
use dreamcatcher_relay::{Quotas, RelayConfig};

use crate::setup::{config, connect, memory, signer, start, stats, token, try_connect, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_four_connections_and_the_newest_wins() {
    let relay = start(config("eu", Arc::new(memory()))).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(connect(1, &relay).await);
    }
    let other = connect(2, &relay).await;
    until("the oldest is closed", || {
        stats(&relay)
            .errors_total
            .get(&ErrorCode::ReplacedByNewConnection)
            == Some(&1)
    })
    .await;
    until("five are left", || stats(&relay).clients == 5).await;
    assert!(clients[1..].iter().all(|client| client.is_connected()) && other.is_connected());
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_so_many_connections_and_after_churn_nothing_is_left() {
    let relay = start(RelayConfig {
        quotas: Quotas {
            connections_per_address: 3,
            new_per_s: 0,
            limit_loopback: true,
            ..Quotas::default()
        },
        always_retry: true,
        ..config("eu", Arc::new(memory()))
    })
    .await;
    for round in 0..10_u8 {
        let mut clients = Vec::new();
        for user in 0..3 {
            clients.push(connect(user, &relay).await);
        }
        let refused = try_connect(token(&signer(1), 9), &relay)
            .await
            .err()
            .unwrap();
        assert!(refused.is_retryable(), "{refused}");
        assert!(
            refused.message().contains("no room") || refused.code() == ErrorCode::ServerFull,
            "{refused}"
        );
        until("one address", || stats(&relay).addresses == 1).await;
        for client in clients {
            client.close().await;
        }
        until("none", || stats(&relay).addresses == 0).await;
        assert!(stats(&relay).connections_refused_total > u64::from(round));
    }
    until("nobody is left", || stats(&relay).clients == 0).await;
    assert!(
        stats(&relay).retries_total >= 30,
        "every newcomer shows its address"
    );
    relay.kill();
}
