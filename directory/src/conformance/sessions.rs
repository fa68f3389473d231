//! Who may own a session.

use std::time::Duration;

use dreamcatcher_proto::{Epoch, ErrorCode, PeerId};

use super::Subject;
use super::bench::{
    Bench, ahead_max_us, everything, holder, install, invalid, listing, new_session, next_change,
    node, session,
};
use crate::limits;
use crate::{Change, DirectoryError, NodeRecord, Reply, Request, SessionRecord, View};

pub async fn of_two_creates_with_one_id_the_first_wins(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (first, second) = tokio::join!(
        directory.ask(new_session(1, &a)),
        directory.ask(new_session(1, &b))
    );
    let (created, exists) = if matches!(first, Reply::Created { .. }) {
        (first, second)
    } else {
        (second, first)
    };
    let Reply::Created { epoch, nonce, code } = created else {
        panic!("{created:?}")
    };
    let Reply::Exists(record) = exists else {
        panic!("{exists:?}")
    };
    assert_eq!((record.ballot, record.view.epoch), (epoch, epoch));
    assert_eq!((record.view.nonce, record.code), (nonce, code));
    assert_eq!(directory.session(1).await, Some(record));
}

pub async fn only_a_registered_run_can_own(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let stranger = holder("b", 1);
    let refused = DirectoryError::NotRegistered(stranger.clone());
    assert_eq!(directory.refused(new_session(1, &stranger)).await, refused);

    directory.create(1, &a).await;
    let record = directory.raise(1).await;
    let install = install(&record, &stranger, 7);
    assert_eq!(directory.refused(install).await, refused);
    let lost = SessionRecord {
        view: View {
            owner: stranger,
            ..record.view.clone()
        },
        ..record
    };
    assert_eq!(directory.refused(Request::Restore(lost)).await, refused);
}

pub async fn of_two_ballots_on_one_expectation_one_is_raised(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let raise = Request::RaiseBallot {
        id: session(1),
        expected: epoch,
        promised: epoch,
    };
    let (first, second) =
        tokio::join!(directory.call(raise.clone()), directory.call(raise.clone()));
    let (raised, lost) = if first.is_ok() {
        (first, second)
    } else {
        (second, first)
    };
    let ballot = raised
        .unwrap_or_else(|e| panic!("{e}"))
        .into_session()
        .ballot;
    assert!(ballot > epoch);
    assert_eq!(lost, Err(DirectoryError::Conflict { ballot, epoch }));

    let unknown = Request::RaiseBallot {
        id: session(2),
        expected: epoch,
        promised: epoch,
    };
    let missing = DirectoryError::SessionNotFound(session(2));
    assert_eq!(directory.refused(unknown).await, missing);
}

pub async fn a_ballot_is_above_every_promise_but_not_far_ahead_of_the_clock(
    subject: &impl Subject,
) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let raise = |promised| Request::RaiseBallot {
        id: session(1),
        expected: epoch,
        promised,
    };
    for far in [u64::MAX, limits::EPOCH_MAX, epoch.0 + 2 * ahead_max_us()] {
        let code = invalid(directory.refused(raise(Epoch(far))).await);
        assert_eq!(code, ErrorCode::InvalidArgument, "{far}");
    }
    let promised = Epoch(epoch.0 + ahead_max_us() / 2);
    let record = directory.ask(raise(promised)).await.into_session();
    assert_eq!(record.ballot, promised.next());
    assert_eq!(record.view.epoch, epoch, "a ballot alone changes no view");
}

pub async fn a_view_is_installed_only_under_the_ballot_in_force(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let first = directory.raise(1).await;
    let second = directory.raise(1).await;
    let mut watch = directory.watch();

    let conflict = DirectoryError::Conflict {
        ballot: second.ballot,
        epoch,
    };
    assert_eq!(
        directory.refused(install(&first, &b, 1)).await,
        conflict,
        "a stale claim"
    );
    let stale_owner = Request::InstallView {
        id: session(1),
        ballot: epoch,
        view: View {
            anchors: vec![PeerId(1)],
            ..first.view.clone()
        },
    };
    assert_eq!(
        directory.refused(stale_owner).await,
        conflict,
        "a claim is under way"
    );
    let ahead = View {
        epoch: second.ballot.next(),
        ..first.view
    };
    let ahead = Request::InstallView {
        id: session(1),
        ballot: second.ballot,
        view: ahead,
    };
    assert_eq!(
        directory.refused(ahead).await,
        conflict,
        "an epoch that nobody gave out"
    );

    for _ in 0..2 {
        directory.done(install(&second, &b, 2)).await;
    }
    let view = directory.session(1).await.map(|record| record.view);
    let view = view.expect("it was not closed");
    assert_eq!(
        (view.epoch, view.nonce, &view.owner),
        (second.ballot, 2, &b)
    );
    let moved = Change::SessionMoved {
        id: session(1),
        view,
    };
    assert_eq!(next_change(&mut watch).await, moved);
    directory
        .done(Request::CloseSession {
            id: session(1),
            epoch: second.ballot,
        })
        .await;
    let closed = Change::SessionClosed(session(1));
    assert_eq!(
        next_change(&mut watch).await,
        closed,
        "the repeated request moved nothing"
    );
}

pub async fn an_epoch_has_one_owner_and_one_nonce(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let record = directory.session(1).await.expect("it was created");
    let change = |view| Request::InstallView {
        id: session(1),
        ballot: epoch,
        view,
    };

    let conflict = DirectoryError::Conflict {
        ballot: epoch,
        epoch,
    };
    let usurped = View {
        owner: b.clone(),
        ..record.view.clone()
    };
    assert_eq!(directory.refused(change(usurped)).await, conflict);
    let doubled = View {
        nonce: !record.view.nonce,
        ..record.view.clone()
    };
    assert_eq!(directory.refused(change(doubled)).await, conflict);

    let amended = View {
        standby: Some(b),
        anchors: vec![PeerId(1)],
        ..record.view
    };
    directory.done(change(amended.clone())).await;
    assert_eq!(
        directory.session(1).await.map(|record| record.view),
        Some(amended)
    );
}

pub async fn a_superseded_owner_can_change_nothing(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let record = directory.raise(1).await;
    directory.done(install(&record, &b, 1)).await;

    let id = session(1);
    let conflict = DirectoryError::Conflict {
        ballot: record.ballot,
        epoch: record.ballot,
    };
    for stale in [
        Request::RotateCode { id, epoch },
        Request::RevokeCode { id, epoch },
        Request::Assert {
            id,
            epoch,
            listing: listing("stale"),
        },
        Request::CloseSession { id, epoch },
    ] {
        assert_eq!(directory.refused(stale).await, conflict);
    }
    directory
        .done(Request::Register(node(&holder("b", 2))))
        .await;
    let void = Request::RotateCode {
        id,
        epoch: record.ballot,
    };
    assert_eq!(directory.refused(void).await, DirectoryError::Superseded(b));
}

pub async fn an_orphan_can_be_claimed_until_its_time_is_over(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (_, claimed_code) = directory.create(1, &a).await;
    let (_, lost_code) = directory.create(2, &a).await;
    directory.done(Request::Deregister(a)).await;

    directory
        .elapse_renewing(&b, limits::ORPHAN_TTL - Duration::from_secs(2))
        .await;
    let record = directory.raise(1).await;
    directory.done(install(&record, &b, 1)).await;
    let mut watch = directory.watch();
    directory.elapse_renewing(&b, Duration::from_secs(2)).await;

    assert_eq!(directory.session(2).await, None);
    assert_eq!(
        directory.ask(Request::Code(lost_code)).await,
        Reply::Session(None)
    );
    let claimed = directory
        .ask(Request::Code(claimed_code))
        .await
        .into_session();
    assert_eq!(claimed.view.owner, b);
    assert_eq!(
        next_change(&mut watch).await,
        Change::SessionClosed(session(2))
    );
}

pub async fn what_was_lost_can_be_given_back_and_the_newer_view_stays(subject: &impl Subject) {
    let before = Bench::new(subject).await;
    let [a, b] = before.nodes(["a", "b"]).await;
    before.create(1, &a).await;
    let older = before.session(1).await.expect("it was created");
    let raised = before.raise(1).await;
    before.done(install(&raised, &b, 1)).await;
    let newer = before.session(1).await.expect("it was not closed");

    let after = Bench::new(subject).await;
    after.nodes(["a", "b"]).await;
    assert_eq!(
        after
            .ask(Request::Restore(older.clone()))
            .await
            .into_session(),
        older
    );
    assert_eq!(
        after
            .ask(Request::Restore(newer.clone()))
            .await
            .into_session(),
        newer
    );
    assert_eq!(
        after
            .ask(Request::Restore(newer.clone()))
            .await
            .into_session(),
        newer
    );
    let conflict = DirectoryError::Conflict {
        ballot: newer.ballot,
        epoch: newer.view.epoch,
    };
    assert_eq!(after.refused(Request::Restore(older)).await, conflict);
    let code = newer.code.expect("it was created with a code");
    assert_eq!(after.ask(Request::Code(code)).await.into_session(), newer);
    assert_eq!(after.list(everything()).await.sessions.len(), 1);
    assert!(
        after.raise(1).await.ballot > newer.ballot,
        "epochs rise across the loss"
    );
}

pub async fn what_is_given_back_lowers_no_ballot_and_takes_no_code(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a, b] = directory.nodes(["a", "b"]).await;
    let (_, code) = directory.create(1, &a).await;
    let first = directory.raise(1).await;
    let second = directory.raise(1).await;

    let view = View {
        epoch: first.ballot,
        nonce: 1,
        owner: b,
        ..first.view.clone()
    };
    let newer = SessionRecord {
        view,
        ..first.clone()
    };
    let stored = directory
        .ask(Request::Restore(newer.clone()))
        .await
        .into_session();
    assert_eq!((stored.ballot, stored.view), (second.ballot, newer.view));

    let other = SessionRecord {
        id: session(2),
        ..first
    };
    let stored = directory.ask(Request::Restore(other)).await.into_session();
    assert_eq!(stored.code, None);
    let found = directory.ask(Request::Code(code)).await.into_session();
    assert_eq!(found.id, session(1));
}

pub async fn what_could_not_be_read_back_is_refused(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let good = node(&holder("b", 1));
    for bad in [
        NodeRecord {
            host: String::new(),
            ..good.clone()
        },
        NodeRecord {
            region: "EU".to_owned(),
            ..good.clone()
        },
        NodeRecord {
            capacity: 0,
            ..good.clone()
        },
        NodeRecord {
            certificate_sha256: vec![[0; 32]; 5],
            ..good.clone()
        },
    ] {
        let refused = directory.refused(Request::Register(bad)).await;
        assert_eq!(invalid(refused), ErrorCode::InvalidArgument);
    }
    let mut elsewhere = new_session(1, &a);
    if let Request::CreateSession(new) = &mut elsewhere {
        new.home_region = "no region".to_owned();
    }
    assert_eq!(
        invalid(directory.refused(elsewhere).await),
        ErrorCode::InvalidArgument
    );

    directory.create(1, &a).await;
    let record = directory.raise(1).await;
    let mut crowded = install(&record, &a, 1);
    if let Request::InstallView { view, .. } = &mut crowded {
        view.anchors = (1..=17).map(PeerId).collect();
    }
    assert_eq!(
        invalid(directory.refused(crowded).await),
        ErrorCode::InvalidArgument
    );
    assert_eq!(directory.alive().await, [a]);
}
