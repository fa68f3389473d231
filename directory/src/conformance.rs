//! The rules as tests that any backend has to pass: [`conformance_tests!`](crate::conformance_tests).

mod bench;
mod lists;
mod nodes;
mod sessions;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::Directory;

#[cfg(test)]
pub(crate) use bench::{holder, listing, new_session, node, session};
pub use lists::*;
pub use nodes::*;
pub use sessions::*;

/// A backend under test.
pub trait Subject {
    /// An empty directory of its own.
    fn directory(&self) -> impl Future<Output = Arc<dyn Directory>>;

    /// Lets this much of the directory's time pass.
    fn elapse(&self, term: Duration) -> impl Future<Output = ()>;

    /// Sets the directory's clock back by this much.
    fn set_back(&self, term: Duration) -> impl Future<Output = ()>;
}

/// One `#[tokio::test]` for each rule, each with the [`Subject`](crate::conformance::Subject) that
/// the expression makes.
#[macro_export]
macro_rules! conformance_tests {
    ($subject:expr) => {
        $crate::conformance_tests! { @ $subject;
            a_node_is_alive_while_it_renews_and_gone_when_its_lease_ends
            a_node_with_another_cluster_key_is_kept_out_while_others_live
            a_node_that_deregisters_is_gone_at_once
            a_later_run_supersedes_the_earlier_and_voids_its_sessions_at_once
            a_superseded_run_does_not_come_back_when_its_successor_ends
            a_live_node_s_id_is_refused_to_a_relay_elsewhere_until_its_lease_ends
            a_run_that_lapsed_can_come_back_and_still_owns_its_sessions
            where_the_clock_is_set_back_terms_end_by_elapsed_time_and_epochs_rise
            only_what_changes_of_a_node_is_told
            a_wish_to_drain_stays_through_the_run_and_ends_with_it
            the_last_published_keys_are_kept_for_their_time
            of_two_creates_with_one_id_the_first_wins
            only_a_registered_run_can_own
            of_two_ballots_on_one_expectation_one_is_raised
            a_ballot_is_above_every_promise_but_not_far_ahead_of_the_clock
            a_view_is_installed_only_under_the_ballot_in_force
            an_epoch_has_one_owner_and_one_nonce
            a_session_has_at_most_one_code_and_a_closed_one_has_none
            a_superseded_owner_can_change_nothing
            a_listing_hides_when_its_owner_stops_asserting_and_returns_when_it_asserts
            a_list_shows_what_fits_in_pages
            an_orphan_can_be_claimed_until_its_time_is_over
            what_was_lost_can_be_given_back_and_the_newer_view_stays
            what_is_given_back_lowers_no_ballot_and_takes_no_code
            what_could_not_be_read_back_is_refused
        }
    };
    (@ $subject:expr; $($rule:ident)*) => {
        $(#[tokio::test]
        async fn $rule() {
            $crate::conformance::$rule(&$subject).await;
        })*
    };
}
