//! The directory goes away, comes back, and has forgotten everything: running sessions notice nothing.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dreamcatcher_client::{ErrorCode, Mode, SessionOptions, Target};
use dreamcatcher_directory::{
    Answer, Directory, Filter, Hint, MemoryDirectory, NodeRecord, Reply, Request, Watch,
};
use tokio::sync::broadcast;

use crate::setup::{
    DEADLINE, config, connect, created_in, memory, next_message, start, stats, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_directory_forgets_comes_back_and_running_sessions_do_not_notice() {
    let directory = Arc::new(Forgetful::new());
    let owner = start(config("eu", directory.clone())).await;
    let gateway = start(config("us", directory.clone())).await;
    let (ann, bob) = (connect(1, &owner).await, connect(2, &gateway).await);
    let mut hers = created_in(&ann, "eu").await;
    let code = hers.code().unwrap().to_string();
    let mut his = bob.join_code(&code).await.unwrap();

    directory.forget();
    assert_eq!(listed(&*directory).await, 0);
    hers.send(Mode::Ordered, Target::All, "meanwhile").unwrap();
    assert_eq!(next_message(&mut hers).await, "meanwhile");
    assert_eq!(next_message(&mut his).await, "meanwhile");

    let forgotten_at = Instant::now();
    let carol = connect(3, &gateway).await;
    let _hers = loop {
        match carol.join_code(&code).await {
            Ok(session) => break session,
            Err(error) => assert!(
                matches!(
                    error.code(),
                    ErrorCode::JoinCodeNotFound
                        | ErrorCode::DirectoryUnavailable
                        | ErrorCode::RateLimited
                ),
                "{error}"
            ),
        }
        assert!(
            forgotten_at.elapsed() < DEADLINE,
            "the code did not come back"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    while listed(&*directory).await == 0 {
        assert!(
            forgotten_at.elapsed() < DEADLINE,
            "the listing did not come back"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        forgotten_at.elapsed() < Duration::from_secs(6),
        "{:?}",
        forgotten_at.elapsed()
    );
    until("counted", || stats(&owner).sessions_restored_total > 0).await;
    assert_eq!(stats(&owner).codes_lost_total, 0);

    his.send(Mode::Ordered, Target::All, "afterwards").unwrap();
    assert_eq!(next_message(&mut hers).await, "afterwards");
    assert_eq!(next_message(&mut his).await, "afterwards");
    owner.kill();
    gateway.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_directory_is_down_newcomers_hear_so_within_a_second_and_players_play_on() {
    let directory = memory();
    let relay = start(config("eu", Arc::new(directory.clone()))).await;
    let (ann, bob) = (connect(1, &relay).await, connect(2, &relay).await);
    let mut hers = created_in(&ann, "eu").await;
    let code = hers.code().unwrap().to_string();
    let id = hers.id();

    directory.set_down(true);
    let asked_at = Instant::now();
    let created = bob.create(SessionOptions::default()).await;
    assert_refused(&created.err().unwrap());
    let joined = bob.join_code(&code).await;
    assert_refused(&joined.err().unwrap());
    assert!(asked_at.elapsed() < Duration::from_secs(2), "a second each");
    let mut his = bob.join(id).await.unwrap();
    hers.send(Mode::Ordered, Target::All, "still here").unwrap();
    assert_eq!(next_message(&mut hers).await, "still here");
    assert_eq!(next_message(&mut his).await, "still here");
    until("not ready", || relay.readiness().is_err()).await;

    // What ends meanwhile is told once somebody hears it.
    his.leave().await;
    hers.leave().await;
    directory.set_down(false);
    until("ready", || relay.readiness().is_ok()).await;
    let deadline = Instant::now() + DEADLINE;
    let filter = Filter {
        unlisted: true,
        limit: 100,
        ..Filter::default()
    };
    loop {
        match directory.call(Request::ListSessions(filter.clone())).await {
            Ok(Reply::Listings(page)) if page.sessions.is_empty() => break,
            Ok(Reply::Listings(_)) => {}
            other => panic!("{other:?}"),
        }
        assert!(Instant::now() < deadline, "the session is still there");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let gone = directory.call(Request::Session(id)).await;
    assert_eq!(gone, Ok(Reply::Session(None)));
    until("told", || stats(&relay).repairs_waiting == 0).await;
    relay.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_to_drain_takes_nothing_new_until_it_is_not() {
    let directory = memory();
    let relay = start(config("eu", Arc::new(directory.clone()))).await;
    let other = start(config("us", Arc::new(directory.clone()))).await;
    let ann = connect(1, &relay).await;
    let mut session = created_in(&ann, "eu").await;
    let node = relay.nodes().remove(0).id;
    for wanted in [true, false] {
        let drain = Request::Drain {
            node: node.clone(),
            wanted,
        };
        assert_eq!(directory.call(drain).await, Ok(Reply::Done));
        let deadline = Instant::now() + DEADLINE;
        while nodes(&directory)
            .await
            .iter()
            .find(|record| record.id == node)
            .unwrap()
            .draining
            != wanted
        {
            assert!(Instant::now() < deadline, "draining is not {wanted}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        session.send(Mode::Ordered, Target::All, "goes on").unwrap();
        assert_eq!(next_message(&mut session).await, "goes on");
    }
    relay.kill();
    other.kill();
}

fn assert_refused(error: &dreamcatcher_client::Error) {
    assert_eq!(error.code(), ErrorCode::DirectoryUnavailable, "{error}");
    assert!(error.is_retryable());
}

async fn listed(directory: &dyn Directory) -> usize {
    let filter = Filter {
        limit: 100,
        ..Filter::default()
    };
    match directory.call(Request::ListSessions(filter)).await {
        Ok(Reply::Listings(page)) => page.sessions.len(),
        other => panic!("{other:?}"),
    }
}

async fn nodes(directory: &dyn Directory) -> Vec<NodeRecord> {
    match directory.call(Request::Nodes).await {
        Ok(Reply::Nodes(records)) => records,
        other => panic!("{other:?}"),
    }
}

/// A directory that can lose everything at once, as a store without a disk does when it restarts.
#[derive(Debug)]
struct Forgetful {
    present: Mutex<MemoryDirectory>,
    hints: broadcast::Sender<Hint>,
}

impl Forgetful {
    fn new() -> Self {
        let directory = Self {
            present: Mutex::new(memory()),
            hints: broadcast::Sender::new(1_024),
        };
        directory.forget();
        directory
    }

    fn forget(&self) {
        let empty = memory();
        let mut watch = empty.watch();
        *self.present.lock().unwrap() = empty;
        let hints = self.hints.clone();
        let _ = hints.send(Hint::Missed(0));
        // Ends with the directory.
        tokio::spawn(async move {
            while let Some(hint) = watch.next().await {
                let _ = hints.send(hint);
            }
        });
    }
}

impl Directory for Forgetful {
    fn call(&self, request: Request) -> Answer<'_> {
        let present = self.present.lock().unwrap().clone();
        Box::pin(async move { present.call(request).await })
    }

    fn watch(&self) -> Watch {
        Watch::new(&self.hints)
    }
}
