//! Every rule is needed: without it the checker finds a way to break a promise.
//! Those that another one covers are taken from [`Rules::ONE_ANSWER`], where nothing covers them.
//! `cargo test -p dreamcatcher-model --test broken -- --nocapture` prints the shortest way.

use dreamcatcher_model::check::{Steps, explore, shortest};
use dreamcatcher_model::properties::{FOLLOWED, KEPT, NEVER_FALLS, ONE_MESSAGE, TOTAL_ORDER};
use dreamcatcher_model::{Bounds, Rule, Rules, Session, Tails};

/// One relay crashes, and one claims.
const CRASH: Bounds = Bounds {
    claims: 1,
    crashes: 1,
    ..Bounds::calm(2)
};

/// The same, and the owner takes another standby.
const REPLACEMENT: Bounds = Bounds {
    replacements: 1,
    ..CRASH
};

/// One relay does not notice that its lease is over.
const PAUSE: Bounds = Bounds {
    crashes: 0,
    lapses: 1,
    ..CRASH
};

/// Nothing crashes; relays compete.
const COMPETITION: Bounds = Bounds {
    claims: 2,
    ..Bounds::calm(2)
};

/// The same, and the directory loses its last write.
const FORGETFUL: Bounds = Bounds {
    losses: 1,
    ..COMPETITION
};

#[test]
fn an_owner_that_does_not_wait_for_its_standby_loses_messages() {
    breaks(Rules::ALL, Rule::StoreBeforeDelivering, CRASH, KEPT);
}

#[test]
fn an_owner_that_is_read_but_not_sealed_goes_on_delivering() {
    breaks(Rules::ONE_ANSWER, Rule::SealBeforeReading, CRASH, KEPT);
}

#[test]
fn epochs_that_the_directory_counts_are_given_out_twice() {
    breaks(
        Rules::ONE_ANSWER,
        Rule::UniqueEpochs,
        FORGETFUL,
        ONE_MESSAGE,
    );
}

#[test]
fn a_member_without_a_fence_hears_an_old_owner() {
    breaks(Rules::ALL, Rule::MembersFence, PAUSE, NEVER_FALLS);
}

#[test]
fn a_member_that_does_not_keep_its_promise_delivers_what_its_tail_did_not_have() {
    let bounds = Bounds {
        tails: Tails::HoldersSilent,
        ..CRASH
    };
    breaks(Rules::ONE_ANSWER, Rule::MembersFence, bounds, TOTAL_ORDER);
}

#[test]
fn a_standby_that_stores_for_any_epoch_loses_the_newer_log() {
    breaks(Rules::ONE_ANSWER, Rule::StandbyChecksEpoch, CRASH, KEPT);
}

#[test]
fn a_view_that_is_installed_under_any_ballot_undoes_a_newer_one() {
    breaks(Rules::ONE_ANSWER, Rule::CompareBallot, COMPETITION, KEPT);
}

#[test]
fn a_standby_that_is_named_before_it_holds_the_log_answers_with_nothing() {
    breaks(Rules::ALL, Rule::SyncBeforeInstalling, REPLACEMENT, KEPT);
}

#[test]
fn a_standby_that_was_replaced_answers_with_an_old_log() {
    breaks(Rules::ONE_ANSWER, Rule::AskOnlyHolders, REPLACEMENT, KEPT);
}

#[test]
fn one_of_two_standbys_is_not_enough_while_either_may_be_the_one() {
    breaks(Rules::ALL, Rule::BothStoreInDoubt, REPLACEMENT, KEPT);
}

#[test]
fn the_tail_of_an_unlisted_member_does_not_replace_that_of_a_listed_one() {
    let bounds = Bounds {
        crashes: 2,
        unlisted: true,
        tails: Tails::HoldersGone,
        messages: 1,
        ..CRASH
    };
    breaks(Rules::ALL, Rule::EveryListedMemberPromises, bounds, KEPT);
}

#[test]
fn the_newest_tail_alone_is_shorter_than_what_was_delivered_before() {
    let bounds = Bounds {
        claims: 2,
        crashes: 2,
        tails: Tails::HoldersGone,
        ..CRASH
    };
    breaks(Rules::ALL, Rule::ContinueNewestTail, bounds, KEPT);
}

#[test]
fn one_answer_is_not_enough_if_the_directory_has_lost_a_view() {
    breaks(
        Rules::ALL,
        Rule::EveryHolderAnswers,
        Bounds {
            crashes: 1,
            messages: 1,
            ..FORGETFUL
        },
        KEPT,
    );
}

#[test]
fn whom_a_view_left_out_answers_with_an_old_log_if_the_directory_has_lost_that_view() {
    breaks(
        Rules::ALL,
        Rule::TellBeforeServing,
        Bounds {
            crashes: 1,
            messages: 1,
            ..FORGETFUL
        },
        KEPT,
    );
}

#[test]
fn with_one_answer_a_lost_takeover_needs_no_crash_to_lose_messages() {
    broken(
        Session {
            rules: Rules::ONE_ANSWER,
            bounds: FORGETFUL,
        },
        KEPT,
    );
}

#[test]
fn with_one_answer_a_lost_replacement_needs_no_crash_to_lose_messages() {
    let bounds = Bounds {
        claims: 1,
        replacements: 1,
        ..FORGETFUL
    };
    broken(
        Session {
            rules: Rules::ONE_ANSWER,
            bounds,
        },
        KEPT,
    );
}

#[test]
fn a_claimant_that_does_not_follow_newer_views_is_stuck_where_the_directory_has_lost_one() {
    let rules = Rules::ALL.without(Rule::FollowNewerViews);
    let outcome = explore(Session {
        rules,
        bounds: FORGETFUL,
    });
    println!("{outcome}");
    assert!(outcome.broken.is_empty(), "{outcome}");
    assert_eq!(outcome.unseen, [FOLLOWED], "{outcome}");
}

/// With `rules` the promise is kept, without `rule` it is not.
fn breaks(rules: Rules, rule: Rule, bounds: Bounds, promise: &'static str) {
    println!("without {rule:?}:");
    broken(
        Session {
            rules: rules.without(rule),
            bounds,
        },
        promise,
    );
}

fn broken(session: Session, promise: &'static str) {
    let path = shortest(session, promise);
    let path = path.unwrap_or_else(|| panic!("{promise} holds: {session:?}"));
    println!(
        "{promise} is broken after {} steps:\n{}",
        path.len(),
        Steps(&path)
    );
}
