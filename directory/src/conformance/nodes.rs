//! Runs of nodes and their leases.

use std::time::Duration;

use dreamcatcher_proto::ErrorCode;

use super::Subject;
use super::bench::{
    Bench, everything, holder, invalid, listing, next_change, node, renewal, session, up,
};
use crate::limits;
use crate::{Change, DirectoryError, Load, NodeRecord, Reply, Request};

pub async fn a_node_is_alive_while_it_renews_and_gone_when_its_lease_ends(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let mut watch = directory.watch();
    let [a, b] = directory.nodes(["a", "b"]).await;
    let until_near_the_end = limits::NODE_LEASE - Duration::from_millis(500);

    subject.elapse(until_near_the_end).await;
    directory.renew(&a, Load::default()).await;
    subject.elapse(until_near_the_end).await;
    assert_eq!(directory.alive().await, std::slice::from_ref(&a));
    assert_eq!(
        directory
            .refused(Request::Renew(renewal(&b, Load::default())))
            .await,
        DirectoryError::NotRegistered(b.clone())
    );

    subject.elapse(limits::NODE_LEASE).await;
    assert_eq!(directory.alive().await, []);
    for expected in [up(&a), up(&b), Change::NodeGone(b), Change::NodeGone(a)] {
        assert_eq!(next_change(&mut watch).await, expected);
    }
}

pub async fn a_node_with_another_cluster_key_is_kept_out_while_others_live(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let stranger = NodeRecord {
        mesh_id: u64::MAX,
        ..node(&holder("b", 1))
    };
    let register = Request::Register(stranger);
    assert_eq!(
        directory.refused(register.clone()).await,
        DirectoryError::OtherMesh(a.node.clone())
    );
    assert_eq!(directory.alive().await, std::slice::from_ref(&a));
    directory.done(Request::Deregister(a)).await;
    directory.done(register).await;
}

pub async fn a_node_that_deregisters_is_gone_at_once(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let mut watch = directory.watch();
    for _ in 0..2 {
        directory.done(Request::Deregister(a.clone())).await;
    }
    assert_eq!(directory.alive().await, []);
    assert_eq!(next_change(&mut watch).await, Change::NodeGone(a));
}

pub async fn a_later_run_supersedes_the_earlier_and_voids_its_sessions_at_once(
    subject: &impl Subject,
) {
    let directory = Bench::new(subject).await;
    let [earlier] = directory.nodes(["a"]).await;
    let (_, code) = directory.create(1, &earlier).await;
    let mut watch = directory.watch();

    let later = holder("a", 2);
    directory.done(Request::Register(node(&later))).await;

    assert_eq!(directory.alive().await, std::slice::from_ref(&later));
    assert_eq!(directory.list(everything()).await.sessions, []);
    assert_eq!(
        next_change(&mut watch).await,
        Change::NodeGone(earlier.clone())
    );
    assert_eq!(next_change(&mut watch).await, up(&later));
    let record = directory.ask(Request::Code(code)).await.into_session();
    assert_eq!(
        record.view.owner, earlier,
        "the record stays, to be claimed"
    );

    let superseded = DirectoryError::Superseded(earlier.clone());
    let renew = Request::Renew(renewal(&earlier, Load::default()));
    assert_eq!(directory.refused(renew).await, superseded);
    assert_eq!(
        directory.refused(Request::Register(node(&earlier))).await,
        superseded
    );
    directory.done(Request::Deregister(earlier.clone())).await;
    assert_eq!(
        directory.alive().await,
        std::slice::from_ref(&later),
        "an earlier run ends only itself"
    );
    directory.create(2, &later).await;
    directory
        .elapse_renewing(&later, 2 * limits::ORPHAN_TTL)
        .await;
    assert_eq!(directory.session(1).await, None, "nobody claimed it");
    assert!(directory.session(2).await.is_some(), "its owner lives");
    let renew = Request::Renew(renewal(&earlier, Load::default()));
    assert_eq!(directory.refused(renew).await, superseded, "however late");
}

pub async fn a_live_node_s_id_is_refused_to_a_relay_elsewhere_until_its_lease_ends(
    subject: &impl Subject,
) {
    let directory = Bench::new(subject).await;
    let [first] = directory.nodes(["a"]).await;
    let there = node(&first);
    let elsewhere = NodeRecord {
        address: ([192, 0, 2, 2], 4433).into(),
        ..node(&holder("a", 2))
    };
    // Beside it, behind the address that both are reached at.
    let beside = NodeRecord {
        mesh_address: ([192, 0, 2, 1], 4435).into(),
        ..node(&holder("a", 3))
    };
    let taken = DirectoryError::NodeIdTaken {
        node: first.node.clone(),
        address: there.address,
        mesh_address: there.mesh_address,
    };
    let mut watch = directory.watch();
    for second in [&elsewhere, &beside, &elsewhere] {
        subject.elapse(limits::NODE_LEASE / 2).await;
        directory.renew(&first, Load::default()).await;
        let register = Request::Register(second.clone());
        assert_eq!(directory.refused(register).await, taken);
    }
    assert_eq!(directory.alive().await, std::slice::from_ref(&first));

    // It moves, in the same run.
    let moved = NodeRecord {
        address: ([192, 0, 2, 3], 4433).into(),
        ..there
    };
    directory.done(Request::Register(moved.clone())).await;
    assert_eq!(
        next_change(&mut watch).await,
        Change::NodeChanged(moved),
        "who was refused changed nothing"
    );
    subject.elapse(limits::NODE_LEASE).await;
    directory.done(Request::Register(elsewhere.clone())).await;
    assert_eq!(directory.alive().await, [elsewhere.holder()]);
    let superseded = DirectoryError::Superseded(first.clone());
    let register = Request::Register(node(&first));
    assert_eq!(directory.refused(register).await, superseded, "not taken");
}

pub async fn where_the_clock_is_set_back_terms_end_by_elapsed_time_and_epochs_rise(
    subject: &impl Subject,
) {
    const MINUTES: Duration = Duration::from_secs(600);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    for back in [MINUTES, YEAR] {
        let directory = Bench::new(subject).await;
        let [a, b] = directory.nodes(["a", "b"]).await;
        let (before, code) = directory.create(1, &a).await;
        let mut watch = directory.watch();

        subject.set_back(back).await;
        assert_eq!(directory.alive().await, [a.clone(), b.clone()], "{back:?}");
        let (after, _) = directory.create(2, &b).await;
        assert!(after > before, "{back:?}: {after} after {before}");
        let half = limits::NODE_LEASE / 2;
        subject.elapse(half).await;
        directory.renew(&b, Load::default()).await;
        // Again, and not as far.
        subject.set_back(half).await;
        directory.renew(&b, Load::default()).await;
        subject.elapse(half).await;
        assert_eq!(directory.alive().await, std::slice::from_ref(&b));
        assert_eq!(next_change(&mut watch).await, Change::NodeGone(a));
        directory.elapse_renewing(&b, limits::ORPHAN_TTL).await;
        let forgotten = directory.ask(Request::Code(code)).await;
        assert_eq!(forgotten, Reply::Session(None), "{back:?}: it is over");

        // Set right: no time passes by that.
        subject.elapse(back + half).await;
        assert_eq!(directory.alive().await, std::slice::from_ref(&b));
        let raised = directory.raise(2).await.ballot;
        assert!(raised > after, "{back:?}: {raised} after {after}");
        subject.elapse(limits::NODE_LEASE).await;
        assert_eq!(directory.alive().await, []);
    }
}

pub async fn a_run_that_lapsed_can_come_back_and_still_owns_its_sessions(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    subject.elapse(limits::NODE_LEASE).await;

    let assert = Request::Assert {
        id: session(1),
        epoch,
        listing: listing("one"),
    };
    let lapsed = DirectoryError::NotRegistered(a.clone());
    assert_eq!(directory.refused(assert.clone()).await, lapsed);
    directory.done(Request::Register(node(&a))).await;
    directory.done(assert).await;

    directory.elapse_renewing(&a, limits::ORPHAN_TTL).await;
    assert!(
        directory.session(1).await.is_some(),
        "its old end no longer counts"
    );
}

pub async fn only_what_changes_of_a_node_is_told(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let mut watch = directory.watch();
    let load = Load {
        sessions: 3,
        clients: 12,
    };
    directory.renew(&a, Load::default()).await;
    directory.renew(&a, load).await;
    directory.renew(&a, load).await;
    directory.done(Request::Deregister(a.clone())).await;

    let changed = NodeRecord { load, ..node(&a) };
    assert_eq!(next_change(&mut watch).await, Change::NodeChanged(changed));
    assert_eq!(next_change(&mut watch).await, Change::NodeGone(a));
}

pub async fn a_wish_to_drain_stays_through_the_run_and_ends_with_it(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let mut watch = directory.watch();
    let drain = |wanted| Request::Drain {
        node: a.node.clone(),
        wanted,
    };
    for _ in 0..2 {
        directory.done(drain(true)).await;
    }
    let busy = Load {
        sessions: 1,
        clients: 1,
    };
    directory.renew(&a, busy).await;
    directory.done(Request::Register(node(&a))).await;
    directory.done(drain(false)).await;
    directory.done(drain(true)).await;
    let wished = NodeRecord {
        drain_wanted: true,
        ..node(&a)
    };
    let loaded = NodeRecord {
        load: busy,
        ..wished.clone()
    };
    for expected in [
        wished.clone(),
        loaded,
        wished.clone(),
        node(&a),
        wished.clone(),
    ] {
        assert_eq!(next_change(&mut watch).await, Change::NodeChanged(expected));
    }
    assert_eq!(
        directory.ask(Request::Nodes).await,
        Reply::Nodes(vec![wished])
    );

    let later = holder("a", 2);
    // Who registers does not decide it.
    let claims = NodeRecord {
        drain_wanted: true,
        ..node(&later)
    };
    directory.done(Request::Register(claims)).await;
    assert_eq!(next_change(&mut watch).await, Change::NodeGone(a.clone()));
    assert_eq!(next_change(&mut watch).await, up(&later));
    directory.done(Request::Deregister(later)).await;
    for node in [a.node.clone(), holder("b", 1).node] {
        let unknown = DirectoryError::NodeNotFound(node.clone());
        let drain = Request::Drain { node, wanted: true };
        assert_eq!(directory.refused(drain).await, unknown);
    }
}

pub async fn the_last_published_keys_are_kept_for_their_time(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    assert_eq!(directory.ask(Request::Keys).await, Reply::Keys(None));
    let documents = [
        r#"{"keys":[]}"#.to_owned(),
        "k".repeat(limits::KEYS_BYTES_MAX),
    ];
    for document in &documents {
        directory.done(Request::PublishKeys(document.clone())).await;
        let kept = Reply::Keys(Some(document.clone()));
        assert_eq!(directory.ask(Request::Keys).await, kept);
    }
    let long = "k".repeat(limits::KEYS_BYTES_MAX + 1);
    let refused = directory.refused(Request::PublishKeys(long)).await;
    assert_eq!(invalid(refused), ErrorCode::InvalidArgument);

    subject
        .elapse(limits::KEYS_TTL - Duration::from_secs(1))
        .await;
    let kept = Reply::Keys(documents.last().cloned());
    assert_eq!(directory.ask(Request::Keys).await, kept);
    subject.elapse(Duration::from_secs(1)).await;
    assert_eq!(directory.ask(Request::Keys).await, Reply::Keys(None));
}

pub async fn a_superseded_run_does_not_come_back_when_its_successor_ends(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [lapsed] = directory.nodes(["a"]).await;
    subject.elapse(limits::NODE_LEASE).await;
    let [replaced, last] = [2, 3].map(|boot| holder("a", boot));
    directory.done(Request::Register(node(&replaced))).await;
    directory.done(Request::Register(node(&last))).await;
    directory.done(Request::Deregister(last.clone())).await;
    for earlier in [lapsed, replaced] {
        let superseded = DirectoryError::Superseded(earlier.clone());
        let register = Request::Register(node(&earlier));
        assert_eq!(directory.refused(register).await, superseded);
        let renew = Request::Renew(renewal(&earlier, Load::default()));
        assert_eq!(directory.refused(renew).await, superseded);
    }
    directory.done(Request::Register(node(&last))).await;
}
