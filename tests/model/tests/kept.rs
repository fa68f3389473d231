//! With all rules every promise is kept, and what is of interest does happen on the way.
//! `cargo test -p dreamcatcher-model --test kept -- --nocapture` prints how many states there are.

use dreamcatcher_model::check::explore;
use dreamcatcher_model::{Bounds, Rules, Session, Tails};

/// One relay crashes.
const CRASH: Bounds = Bounds {
    claims: 2,
    crashes: 1,
    ..Bounds::calm(2)
};

/// Two relays crash, and tails count.
const CRASHES: Bounds = Bounds {
    crashes: 2,
    tails: Tails::HoldersGone,
    ..CRASH
};

/// One relay crashes, one claims, and the directory loses its last write in the middle of it.
const FORGETFUL: Bounds = Bounds {
    claims: 1,
    losses: 1,
    ..CRASH
};

#[test]
fn one_crash_loses_nothing_whoever_claims_and_whichever_standby_there_is() {
    keeps(Bounds {
        replacements: 1,
        ..CRASH
    });
}

#[test]
fn one_crash_loses_nothing_though_the_directory_forgets_a_takeover() {
    keeps(Bounds { losses: 1, ..CRASH });
}

#[test]
fn one_crash_loses_nothing_though_the_directory_forgets_a_replacement() {
    keeps(Bounds {
        replacements: 1,
        ..FORGETFUL
    });
}

#[test]
fn one_crash_loses_nothing_though_the_directory_forgets_any_number_of_writes() {
    keeps(Bounds {
        replacements: 1,
        replica_lags: true,
        ..FORGETFUL
    });
}

#[test]
fn competing_claims_lose_nothing_though_the_directory_forgets_and_its_clock_steps_back() {
    keeps(Bounds {
        claims: 2,
        crashes: 0,
        clock_steps_back: true,
        ..FORGETFUL
    });
}

#[test]
fn a_relay_that_does_not_notice_that_its_lease_is_over_loses_nothing() {
    keeps(Bounds {
        crashes: 0,
        lapses: 1,
        replacements: 1,
        ..FORGETFUL
    });
}

#[test]
fn two_crashes_lose_nothing_that_a_listed_member_delivered() {
    keeps(CRASHES);
}

#[test]
fn two_crashes_lose_nothing_that_a_listed_member_delivered_though_others_did_too() {
    keeps(Bounds {
        claims: 1,
        unlisted: true,
        replacements: 1,
        ..CRASHES
    });
}

#[test]
fn two_crashes_never_leave_members_of_one_epoch_apart_though_some_return_late() {
    keeps(Bounds {
        tails: Tails::HoldersGoneAndMembersToo,
        ..CRASHES
    });
}

fn keeps(bounds: Bounds) {
    let outcome = explore(Session {
        rules: Rules::ALL,
        bounds,
    });
    println!("{outcome}");
    assert!(outcome.holds(), "{outcome}");
}
