//! How sessions are found: join codes and lists.

use std::collections::BTreeSet;
use std::time::Duration;

use dreamcatcher_proto::ErrorCode;
use dreamcatcher_proto::control::Visibility;

use super::Subject;
use super::bench::{Bench, everything, invalid, listing, new_session, next_change, session};
use crate::limits;
use crate::{Change, Filter, ListPage, Listing, Reply, Request};

pub async fn a_session_has_at_most_one_code_and_a_closed_one_has_none(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let mut sessions = Vec::new();
    for seed in 1..=50 {
        sessions.push((session(seed), directory.create(seed, &a).await));
    }
    let codes: BTreeSet<_> = sessions.iter().map(|(_, (_, code))| *code).collect();
    assert_eq!(codes.len(), 50, "each its own");

    let (id, (epoch, old)) = sessions[0];
    let Reply::Code(Some(new)) = directory.ask(Request::RotateCode { id, epoch }).await else {
        panic!("no code")
    };
    assert_eq!(
        directory.ask(Request::Code(old)).await,
        Reply::Session(None)
    );
    let found = directory.ask(Request::Code(new)).await.into_session();
    assert_eq!((found.id, found.code), (id, Some(new)));
    let revoked = directory.ask(Request::RevokeCode { id, epoch }).await;
    assert_eq!(revoked, Reply::Code(None));
    assert_eq!(
        directory.ask(Request::Code(new)).await,
        Reply::Session(None)
    );

    let (id, (epoch, code)) = sessions[1];
    let mut watch = directory.watch();
    for _ in 0..2 {
        directory.done(Request::CloseSession { id, epoch }).await;
    }
    assert_eq!(
        directory.ask(Request::Code(code)).await,
        Reply::Session(None)
    );
    assert_eq!(
        directory.ask(Request::Session(id)).await,
        Reply::Session(None)
    );
    assert_eq!(next_change(&mut watch).await, Change::SessionClosed(id));
}

pub async fn a_listing_hides_when_its_owner_stops_asserting_and_returns_when_it_asserts(
    subject: &impl Subject,
) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let (epoch, _) = directory.create(1, &a).await;
    let assert = Request::Assert {
        id: session(1),
        epoch,
        listing: listing("again"),
    };

    directory
        .elapse_renewing(&a, limits::LISTING_LEASE - Duration::from_secs(2))
        .await;
    assert_eq!(directory.list(everything()).await.sessions.len(), 1);
    directory.elapse_renewing(&a, Duration::from_secs(2)).await;
    assert_eq!(directory.list(everything()).await.sessions, []);
    assert_eq!(
        directory.session(1).await.and_then(|record| record.listing),
        None
    );

    directory.done(assert.clone()).await;
    directory
        .elapse_renewing(&a, limits::LISTING_LEASE - Duration::from_secs(2))
        .await;
    directory.done(assert).await;
    directory
        .elapse_renewing(&a, limits::LISTING_LEASE - Duration::from_secs(2))
        .await;
    let [shown] = &directory.list(everything()).await.sessions[..] else {
        panic!("not shown")
    };
    assert_eq!((shown.id, &shown.listing), (session(1), &listing("again")));

    subject.elapse(limits::NODE_LEASE).await;
    assert_eq!(
        directory.list(everything()).await.sessions,
        [],
        "its owner is gone"
    );
}

pub async fn a_list_shows_what_fits_in_pages(subject: &impl Subject) {
    let directory = Bench::new(subject).await;
    let [a] = directory.nodes(["a"]).await;
    let public = listing("public");
    let other_version = Listing {
        app_version: "2".to_owned(),
        ..public.clone()
    };
    let full = Listing {
        players: public.max_players,
        ..public.clone()
    };
    let unlisted = Listing {
        visibility: Visibility::Unlisted,
        ..public.clone()
    };
    for (seed, region, listing) in [
        (1, "eu", &public),
        (2, "us", &public),
        (3, "eu", &other_version),
        (4, "eu", &full),
        (5, "eu", &unlisted),
        (6, "eu", &public),
    ] {
        let mut request = new_session(seed, &a);
        if let Request::CreateSession(new) = &mut request {
            (new.home_region, new.listing) = (region.to_owned(), Some(listing.clone()));
        }
        directory.ask(request).await;
    }
    let all = everything();
    let in_eu = Filter {
        region: Some("eu".to_owned()),
        ..all.clone()
    };
    let version_1 = Filter {
        app_version: Some("1".to_owned()),
        ..all.clone()
    };
    let with_seats = Filter {
        open_seats: 1,
        ..all.clone()
    };
    let narrow = Filter {
        region: Some("eu".to_owned()),
        app_version: Some("1".to_owned()),
        open_seats: 8,
        ..all.clone()
    };
    for (filter, expected) in [
        (all.clone(), &[1, 2, 3, 4, 6][..]),
        (in_eu, &[1, 3, 4, 6]),
        (version_1, &[1, 2, 4, 6]),
        (with_seats, &[1, 2, 3, 6]),
        (narrow, &[]),
    ] {
        let expected: Vec<_> = expected.iter().map(|&seed| session(seed)).collect();
        for limit in [1, 2, limits::LIST_PAGE_MAX] {
            let mut page = Filter {
                limit,
                ..filter.clone()
            };
            let mut shown = Vec::new();
            loop {
                let ListPage { sessions, next } = directory.list(page.clone()).await;
                assert!(sessions.len() <= usize::from(limit));
                shown.extend(sessions.into_iter().map(|listed| listed.id));
                page.after = next;
                if next.is_none() {
                    break;
                }
            }
            assert_eq!(shown, expected, "{page:?}");
        }
    }
    let to_operators = Filter {
        unlisted: true,
        ..all.clone()
    };
    let shown = directory.list(to_operators).await.sessions;
    let shown: Vec<_> = shown.into_iter().map(|listed| listed.id).collect();
    assert_eq!(
        shown,
        [1, 2, 3, 4, 5, 6].map(session),
        "unlisted ones too, for an operator"
    );
    for limit in [0, limits::LIST_PAGE_MAX + 1] {
        let refused = directory.refused(Request::ListSessions(Filter {
            limit,
            ..all.clone()
        }));
        assert_eq!(invalid(refused.await), ErrorCode::InvalidArgument);
    }
}
