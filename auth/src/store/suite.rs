//! What every store holds to: each rule runs on SQLite and on Postgres, with two handles on one store,
//! as two processes have.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dreamcatcher_proto::token::DisplayName;
use dreamcatcher_proto::{Error, ErrorCode};
use dreamcatcher_servers::Postgres as Server;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_postgres::SimpleQueryMessage;

use super::attempts::COUNTS_MAX;
use super::postgres::Postgres;
use super::sqlite::Sqlite;
use super::{
    Attempt, AttemptKey, FAMILIES_MAX, LoginKeys, NewAccount, PRUNE_EVERY, Patience,
    PostgresConfig, Rotation, Store, StoreConfig, TokenHash, USED_TOKENS_MAX, User,
};
use crate::account::{Email, Login, PasswordHash, Username};
use crate::guest::SecretHash;
use crate::refresh::REPEATABLE_S;

const NOW: u64 = 1_800_000_000;
const LATER: u64 = NOW + 30 * 86_400;
/// Who wins a race does not depend on how busy the machine is.
const OF_TESTS: Patience = Patience {
    call: Duration::from_secs(60),
    statement: Duration::from_secs(60),
    connect: Duration::from_secs(60),
    busy: Duration::from_secs(60),
};
/// Tasks that race for one thing.
const RACERS: u8 = 24;
/// What comes back as it went in: anything that a display name may be.
const HOSTILE: [&str; 8] = [
    "'; DROP TABLE users; --",
    "\"\\%_",
    "$1 ?1 :name @name",
    "名前 🦀 e\u{301}",
    "\\x00 \\0 %00",
    "NULL",
    "{\"a\": [1]}",
    "<script>alert(1)</script>",
];

/// Two handles on one store, and a way to look into it from outside.
struct Bench<S> {
    stores: [Arc<S>; 2],
    sql: Box<dyn Fn(&str) -> String + Send + Sync>,
}

impl<S: Store> Bench<S> {
    fn store(&self) -> &S {
        &self.stores[0]
    }

    fn rows(&self, table: &str) -> i64 {
        (self.sql)(&format!("SELECT count(*) FROM {table}"))
            .parse()
            .unwrap()
    }

    fn handle(&self, number: u8) -> Arc<S> {
        Arc::clone(&self.stores[usize::from(number) % 2])
    }

    /// Runs `job` for each number up to `racers` at once, half of them on the other handle. They start
    /// together, with connections that are there: else the first has won before the second begins.
    async fn race<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        racers: u8,
        job: impl Fn(Arc<S>, u8) -> F,
    ) -> Vec<T> {
        let connecting: Vec<_> = (0..racers)
            .map(|number| {
                let store = self.handle(number);
                tokio::spawn(async move { store.ping().await })
            })
            .collect();
        for connected in connecting {
            connected.await.unwrap().unwrap();
        }
        let start = Arc::new(Barrier::new(usize::from(racers)));
        let mut racing = JoinSet::new();
        for number in 0..racers {
            let (start, job) = (Arc::clone(&start), job(self.handle(number), number));
            racing.spawn(async move {
                start.wait().await;
                job.await
            });
        }
        racing.join_all().await
    }

    async fn user(&self) -> User {
        let secret = SecretHash(crate::keys::random().unwrap());
        self.store().guest(secret, None, NOW).await.unwrap()
    }

    async fn rotate(&self, old: u16, new: u16, now: u64) -> Rotation {
        let (old, new) = (token(old), token(new));
        let rotated = self.store().rotate_refresh(old, new, LATER, now).await;
        rotated.unwrap()
    }

    async fn start(&self, user: &User, number: u16, expires_at: u64) {
        let started = self
            .store()
            .start_refresh(user.id, token(number), expires_at, NOW);
        started.await.unwrap();
    }
}

/// Each rule as a test on SQLite, and all of them in one test on Postgres.
macro_rules! rules {
    ($($rule:ident)*) => {
        mod in_sqlite {
            $(#[tokio::test]
            async fn $rule() {
                let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
                super::$rule(super::sqlite(&folder.path().join("auth.db"))).await;
            })*
        }

        /// The server and its preparation are shared: it takes a second to make one. The role that
        /// serves has the grants of the module's documentation, and no more.
        #[tokio::test]
        async fn every_rule_holds_in_postgres_for_a_role_that_cannot_change_tables() {
            let template = Template::new().await;
            let mut broken = Vec::new();
            $(
                let bench = template.bench(stringify!($rule)).await;
                if tokio::spawn($rule(bench)).await.is_err() {
                    broken.push(stringify!($rule));
                }
            )*
            assert!(broken.is_empty(), "{broken:#?}");
        }
    };
}

rules! {
    a_secret_is_one_user_however_often_it_signs_in_at_once
    a_name_stays_until_another_is_given_and_hostile_ones_round_trip
    a_username_and_an_email_belong_to_one_account_however_many_race_for_them
    a_guest_registers_once_and_stays_who_it_is
    an_account_is_found_by_username_or_email_in_any_case
    a_user_who_is_gone_can_do_nothing_and_leaves_nothing_behind
    of_tokens_that_race_for_one_place_one_is_in_force_and_the_others_end_the_sign_in
    a_token_whose_answer_was_lost_may_come_again_for_a_while_and_no_other_may
    a_used_token_is_reused_once_its_time_is_over_however_many_race
    a_used_token_ends_its_own_sign_in_and_no_other
    a_token_that_expired_or_was_ended_is_unknown
    a_user_has_a_limited_number_of_sign_ins_and_the_longest_unused_goes
    sign_ins_that_have_expired_do_not_pile_up
    a_sign_in_remembers_a_limited_number_of_used_tokens
    an_account_allows_an_address_five_guesses_however_many_race
    an_account_allows_strangers_fifty_guesses_and_an_address_that_it_knows_goes_on
    an_address_allows_twenty_guesses_over_all_accounts
    a_sign_in_that_succeeded_takes_its_count_back
    an_account_knows_the_last_four_addresses_that_signed_in
    attempts_do_not_pile_up
    processes_that_ask_at_once_get_the_same_signing_keys
    signing_keys_move_on_by_one_place_however_many_processes_rotate
    a_closed_store_answers_with_an_error
}

async fn a_secret_is_one_user_however_often_it_signs_in_at_once<S: Store>(bench: Bench<S>) {
    let guest = |store: Arc<S>, _| async move {
        let user = store.guest(SecretHash([1; 32]), None, NOW).await;
        user.unwrap().id
    };
    let mut ids = bench.race(RACERS, guest).await;
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), bench.rows("users")), (1, 1));
    let other = bench.store().guest(SecretHash([2; 32]), None, NOW).await;
    assert_ne!(other.unwrap().id, ids[0]);
}

async fn a_name_stays_until_another_is_given_and_hostile_ones_round_trip<S: Store>(
    bench: Bench<S>,
) {
    let (store, secret) = (bench.store(), SecretHash([1; 32]));
    let unnamed = store.guest(secret, None, NOW).await.unwrap();
    let shown = unnamed.display_name.as_str();
    assert!(shown.starts_with("Guest-"), "{shown}");
    for text in HOSTILE {
        let user = User {
            id: unnamed.id,
            display_name: name(text),
        };
        let named = store.guest(secret, Some(name(text)), NOW).await;
        assert_eq!(named.as_ref(), Ok(&user));
        assert_eq!(store.guest(secret, None, NOW).await.as_ref(), Ok(&user));
    }
    for text in HOSTILE {
        let renamed = store.rename(unnamed.id, name(text)).await.unwrap().unwrap();
        let profile = store.profile(unnamed.id).await.unwrap().unwrap();
        assert_eq!(profile.user, renamed);
        assert_eq!(renamed.display_name, name(text));
        assert_eq!((profile.username, profile.email), (None, None));
        assert_eq!(profile.created_at_unix_s, NOW);
    }
}

async fn a_username_and_an_email_belong_to_one_account_however_many_race_for_them<S: Store>(
    bench: Bench<S>,
) {
    let by_name = |store: Arc<S>, number: u8| async move {
        let username = if number.is_multiple_of(3) {
            "ADA"
        } else {
            "ada"
        };
        let email = format!("ada{number}@host.example");
        let account = account(username, Some(&email));
        store.register(account, None, NOW).await
    };
    let by_email = |store: Arc<S>, number: u8| async move {
        let account = account(&format!("name{number}"), Some("One@Host.example"));
        store.register(account, None, NOW).await
    };
    let of_users = bench.race(RACERS, by_name).await;
    let of_emails = bench.race(RACERS, by_email).await;
    for results in [of_users, of_emails] {
        let registered = results.iter().filter(|result| result.is_ok()).count();
        let refused = results
            .iter()
            .filter(|result| code(result) == Some(ErrorCode::UsernameTaken));
        assert_eq!((registered, refused.count()), (1, usize::from(RACERS) - 1));
    }
    // Whoever was refused left no user behind.
    assert_eq!((bench.rows("users"), bench.rows("accounts")), (2, 2));
}

async fn a_guest_registers_once_and_stays_who_it_is<S: Store>(bench: Bench<S>) {
    let store = bench.store();
    let guest = store
        .guest(SecretHash([1; 32]), Some(name("Ada")), NOW)
        .await;
    let guest = guest.unwrap();
    bench.start(&guest, 1, LATER).await;
    store
        .register(account("taken", None), None, NOW)
        .await
        .unwrap();
    let refused = store
        .register(account("Taken", None), Some(guest.id), NOW)
        .await;
    assert_eq!(code(&refused), Some(ErrorCode::UsernameTaken));

    let upgrade = move |store: Arc<S>, number: u8| async move {
        let account = account(&format!("ada{number}"), None);
        store.register(account, Some(guest.id), NOW).await
    };
    let results = bench.race(RACERS, upgrade).await;
    let linked = results
        .iter()
        .filter(|result| code(result) == Some(ErrorCode::AlreadyLinked));
    assert_eq!(linked.count(), usize::from(RACERS) - 1);
    let user = results.into_iter().find_map(Result::ok).unwrap();
    assert_eq!(
        user,
        User {
            id: guest.id,
            display_name: name("Ada")
        }
    );
    assert_eq!(
        bench.rotate(1, 2, NOW).await,
        Rotation::Rotated(user.clone())
    );
    let again = store.guest(SecretHash([1; 32]), None, NOW).await;
    assert_eq!(again.unwrap(), user);

    let other = bench.user().await;
    let named = NewAccount {
        display_name: Some(name("Grace")),
        ..account("grace", None)
    };
    let renamed = store.register(named, Some(other.id), NOW).await.unwrap();
    assert_eq!(
        renamed,
        User {
            id: other.id,
            display_name: name("Grace")
        }
    );
}

async fn an_account_is_found_by_username_or_email_in_any_case<S: Store>(bench: Bench<S>) {
    let store = bench.store();
    let account = account("Ada.L-9_", Some("Ada+%_'x@Host.example"));
    let user = store.register(account.clone(), None, NOW).await.unwrap();
    assert_eq!(user.display_name, name("Ada.L-9_"));
    for text in [
        "Ada.L-9_",
        "ADA.l-9_",
        "ada+%_'x@host.example",
        "ADA+%_'X@HOST.example",
    ] {
        let found = store.account(&login(text)).await.unwrap().unwrap();
        assert_eq!(found.user, user, "{text}");
        assert_eq!(found.password_hash, account.password_hash);
    }
    // What a pattern or a name of a column would match is not found.
    for text in [
        "adaxl-9_",
        "ada.l-9%",
        "username_folded",
        "ada+__'x@host.example",
    ] {
        if let Ok(login) = Login::try_from(text.to_owned()) {
            assert!(store.account(&login).await.unwrap().is_none(), "{text}");
        }
    }
    let other = PasswordHash::try_from("$argon2id$other".to_owned()).unwrap();
    store
        .set_password_hash(user.id, other.clone())
        .await
        .unwrap();
    let found = store.account(&login("ada.l-9_")).await.unwrap().unwrap();
    assert_eq!(found.password_hash, other);
    let profile = store.profile(user.id).await.unwrap().unwrap();
    assert_eq!(profile.user, user);
    assert_eq!(profile.username, Some(account.username));
    assert_eq!(profile.email, account.email);
}

async fn a_user_who_is_gone_can_do_nothing_and_leaves_nothing_behind<S: Store>(bench: Bench<S>) {
    let store = bench.store();
    let guest = store.guest(SecretHash([1; 32]), None, NOW).await.unwrap();
    let new = account("ada", Some("ada@host.example"));
    let user = store.register(new, Some(guest.id), NOW).await.unwrap();
    bench.start(&user, 1, LATER).await;
    assert_eq!(
        bench.rotate(1, 2, NOW).await,
        Rotation::Rotated(user.clone())
    );

    let delete = move |store: Arc<S>, _| async move { store.delete(user.id).await.unwrap() };
    let deleted = bench.race(RACERS, delete).await;
    assert_eq!(deleted.iter().filter(|gone| **gone).count(), 1);
    for table in [
        "users",
        "guests",
        "accounts",
        "refresh_families",
        "refresh_tokens",
    ] {
        assert_eq!(bench.rows(table), 0, "{table}");
    }

    let hash = PasswordHash::try_from("$x".to_owned()).unwrap();
    store.set_password_hash(user.id, hash).await.unwrap();
    assert_eq!(store.rename(user.id, name("Ada")).await, Ok(None));
    assert_eq!(store.profile(user.id).await, Ok(None));
    assert_eq!(bench.rotate(2, 3, NOW).await, Rotation::Unknown);
    let start = store.start_refresh(user.id, token(4), LATER, NOW).await;
    assert_eq!(code(&start), Some(ErrorCode::InvalidCredentials));
    let upgrade = store
        .register(account("ada", None), Some(user.id), NOW)
        .await;
    assert_eq!(code(&upgrade), Some(ErrorCode::InvalidCredentials));
    let again = store.guest(SecretHash([1; 32]), None, NOW).await.unwrap();
    assert_ne!(again.id, user.id);
    let new = account("ada", Some("ada@host.example"));
    assert!(store.register(new, Some(again.id), NOW).await.is_ok());
}

async fn of_tokens_that_race_for_one_place_one_is_in_force_and_the_others_end_the_sign_in<
    S: Store,
>(
    bench: Bench<S>,
) {
    let user = bench.user().await;
    let rotated = Rotation::Rotated(user.clone());
    for (round, racers) in [(0, 2), (1, RACERS)] {
        let first = 1_000 * round;
        bench.start(&user, first, LATER).await;
        let rotate = move |store: Arc<S>, number: u8| async move {
            let (old, new) = (token(first), token(first + 100 + u16::from(number)));
            store.rotate_refresh(old, new, LATER, NOW).await.unwrap()
        };
        let rotations = bench.race(racers, rotate).await;
        assert!(rotations.iter().all(|rotation| *rotation == rotated));
        let numbers = format!(
            "SELECT count(DISTINCT number) FROM refresh_tokens JOIN refresh_families ON id = family_id
             WHERE latest = {} AND number <= latest",
            i64::from(racers) + 1
        );
        assert_eq!((bench.sql)(&numbers), (i64::from(racers) + 1).to_string());
        // All but the last one are dead. That one goes on until another has ended the sign-in.
        let mut reused = 0;
        for number in 0..u16::from(racers) {
            let rotation = bench.rotate(first + 100 + number, first + 500, NOW).await;
            assert!(rotation != rotated || reused == 0, "{number}");
            reused += u8::from(rotation == Rotation::Reused);
        }
        assert_eq!(reused, racers - 1);
        let ended = bench.rotate(first + 500, first + 501, NOW).await;
        assert_eq!(ended, Rotation::Unknown);
        assert_eq!(
            bench.rotate(first, first + 502, NOW).await,
            Rotation::Reused
        );
    }
}

async fn a_token_whose_answer_was_lost_may_come_again_for_a_while_and_no_other_may<S: Store>(
    bench: Bench<S>,
) {
    let user = bench.user().await;
    let rotated = Rotation::Rotated(user.clone());
    let last = NOW + REPEATABLE_S - 1;
    // Its answer is lost twice, and the third one goes on.
    bench.start(&user, 1, LATER).await;
    assert_eq!(bench.rotate(1, 2, NOW).await, rotated);
    assert_eq!(bench.rotate(1, 3, NOW + 10).await, rotated);
    assert_eq!(bench.rotate(1, 4, last).await, rotated);
    assert_eq!(bench.rotate(4, 5, last).await, rotated);
    // Its successor was used: it is a copy.
    assert_eq!(bench.rotate(1, 6, last).await, Rotation::Reused);
    assert_eq!(bench.rotate(5, 6, last).await, Rotation::Unknown);
    assert_eq!(bench.rotate(4, 6, last).await, Rotation::Reused);

    // The time runs from the first use.
    bench.start(&user, 11, LATER).await;
    assert_eq!(bench.rotate(11, 12, NOW).await, rotated);
    assert_eq!(bench.rotate(11, 13, last).await, rotated);
    assert_eq!(bench.rotate(11, 14, last + 1).await, Rotation::Reused);
    assert_eq!(bench.rotate(13, 14, last + 1).await, Rotation::Unknown);

    // A successor that was replaced is dead, and ends the sign-in.
    bench.start(&user, 21, LATER).await;
    assert_eq!(bench.rotate(21, 22, NOW).await, rotated);
    assert_eq!(bench.rotate(21, 23, NOW).await, rotated);
    assert_eq!(bench.rotate(22, 24, NOW).await, Rotation::Reused);
    assert_eq!(bench.rotate(23, 24, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(21, 24, NOW).await, Rotation::Reused);

    // One that has ended stays so, and one before the last is a copy at any time.
    bench.start(&user, 31, LATER).await;
    assert_eq!(bench.rotate(31, 32, NOW).await, rotated);
    assert_eq!(bench.rotate(32, 33, NOW).await, rotated);
    assert_eq!(bench.rotate(31, 34, NOW).await, Rotation::Reused);
    assert_eq!(bench.rotate(32, 34, NOW).await, Rotation::Reused);
    bench.start(&user, 41, LATER).await;
    assert_eq!(bench.rotate(41, 42, NOW).await, rotated);
    bench.store().end_refresh(token(42)).await.unwrap();
    assert_eq!(bench.rotate(41, 43, NOW).await, Rotation::Unknown);
}

async fn a_used_token_is_reused_once_its_time_is_over_however_many_race<S: Store>(bench: Bench<S>) {
    let user = bench.user().await;
    bench.start(&user, 1, LATER).await;
    let first = bench.rotate(1, 2, NOW).await;
    assert_eq!(first, Rotation::Rotated(user));
    let rotate = |store: Arc<S>, number: u8| async move {
        let new = token(100 + u16::from(number));
        let rotation = store.rotate_refresh(token(1), new, LATER, NOW + REPEATABLE_S);
        rotation.await.unwrap()
    };
    let rotations = bench.race(RACERS, rotate).await;
    assert!(rotations.iter().all(|one| *one == Rotation::Reused));
    assert_eq!(bench.rotate(2, 3, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(1, 3, NOW).await, Rotation::Reused);
}

async fn a_used_token_ends_its_own_sign_in_and_no_other<S: Store>(bench: Bench<S>) {
    let user = bench.user().await;
    let rotated = Rotation::Rotated(user.clone());
    bench.start(&user, 1, LATER).await;
    bench.start(&user, 11, LATER).await;
    for number in 1..5 {
        assert_eq!(bench.rotate(number, number + 1, NOW).await, rotated);
    }
    assert_eq!(bench.rotate(2, 9, NOW).await, Rotation::Reused);
    assert_eq!(bench.rotate(5, 6, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(9, 10, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(11, 12, NOW).await, rotated);
}

async fn a_token_that_expired_or_was_ended_is_unknown<S: Store>(bench: Bench<S>) {
    let user = bench.user().await;
    let rotated = Rotation::Rotated(user.clone());
    bench.start(&user, 1, NOW + 10).await;
    assert_eq!(bench.rotate(1, 2, NOW + 10).await, Rotation::Unknown);
    assert_eq!(bench.rotate(1, 2, NOW + 9).await, rotated);
    // A new token has a time of its own.
    assert_eq!(bench.rotate(2, 3, LATER - 1).await, rotated);
    assert_eq!(bench.rotate(3, 4, LATER).await, Rotation::Unknown);

    bench.start(&user, 11, LATER).await;
    assert_eq!(bench.rotate(11, 12, NOW).await, rotated);
    bench.store().end_refresh(token(11)).await.unwrap();
    assert_eq!(bench.rotate(12, 13, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(11, 13, NOW).await, Rotation::Unknown);
    bench.store().end_refresh(token(11)).await.unwrap();
    assert_eq!(bench.rotate(99, 13, NOW).await, Rotation::Unknown);
}

async fn a_user_has_a_limited_number_of_sign_ins_and_the_longest_unused_goes<S: Store>(
    bench: Bench<S>,
) {
    let limit = u16::try_from(FAMILIES_MAX).unwrap();
    let (user, other) = (bench.user().await, bench.user().await);
    bench.start(&other, 1_000, NOW + 1).await;
    for number in 0..limit {
        bench
            .start(&user, number, NOW + 100 + u64::from(number))
            .await;
    }
    // The first one is used, so that the second is the one that was not for the longest time.
    let rotated = Rotation::Rotated(user.clone());
    assert_eq!(bench.rotate(0, 500, NOW).await, rotated);
    bench.start(&user, limit, LATER).await;
    assert_eq!(bench.rotate(1, 501, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(500, 502, NOW).await, rotated);
    assert_eq!(bench.rotate(2, 503, NOW).await, rotated);

    let id = user.id;
    let start = move |store: Arc<S>, number: u8| async move {
        let token = token(2_000 + u16::from(number));
        store.start_refresh(id, token, LATER, NOW).await
    };
    for started in bench.race(RACERS, start).await {
        started.unwrap();
    }
    assert_eq!(bench.rows("refresh_families"), FAMILIES_MAX + 1);
    assert_eq!(
        bench.rotate(1_000, 1_001, NOW).await,
        Rotation::Rotated(other)
    );
}

async fn sign_ins_that_have_expired_do_not_pile_up<S: Store>(bench: Bench<S>) {
    let users = [bench.user().await, bench.user().await, bench.user().await];
    let mut number = 0;
    for user in &users {
        for _ in 0..FAMILIES_MAX {
            bench.start(user, number, NOW + 10).await;
            number += 1;
        }
    }
    let visitor = bench.user().await;
    bench.start(&visitor, 5_000, LATER).await;
    for step in 0..u16::try_from(2 * PRUNE_EVERY).unwrap() {
        let rotation = bench.rotate(5_000 + step, 5_001 + step, NOW + 10).await;
        assert_eq!(rotation, Rotation::Rotated(visitor.clone()));
    }
    assert_eq!(bench.rows("refresh_families"), 1);
    assert_eq!(bench.rows("refresh_tokens"), 2 * i64::from(PRUNE_EVERY) + 1);
}

async fn a_sign_in_remembers_a_limited_number_of_used_tokens<S: Store>(bench: Bench<S>) {
    let user = bench.user().await;
    let rotated = Rotation::Rotated(user.clone());
    bench.start(&user, 1, LATER).await;
    for number in 1..4 {
        assert_eq!(bench.rotate(number, number + 1, NOW).await, rotated);
    }
    // As if thousands had been used between the first and the second.
    let gap = USED_TOKENS_MAX - 1;
    (bench.sql)(&format!(
        "UPDATE refresh_tokens SET number = number + {gap} WHERE number > 1"
    ));
    (bench.sql)(&format!(
        "UPDATE refresh_families SET latest = latest + {gap}"
    ));
    assert_eq!(bench.rows("refresh_tokens"), 4);
    assert_eq!(bench.rotate(4, 5, NOW).await, rotated);
    assert_eq!(bench.rows("refresh_tokens"), 4);
    assert_eq!(bench.rotate(1, 6, NOW).await, Rotation::Unknown);
    assert_eq!(bench.rotate(2, 6, NOW).await, Rotation::Reused);
}

async fn an_account_allows_an_address_five_guesses_however_many_race<S: Store>(bench: Bench<S>) {
    let guess = |store: Arc<S>, _| async move { store.begin_login(keys(0, 0), NOW).await.unwrap() };
    let attempts = bench.race(2 * RACERS, guess).await;
    let waits = Attempt::Wait(Duration::from_secs(60));
    assert_eq!(count_of(&attempts, Attempt::Go), 5);
    assert_eq!(count_of(&attempts, waits), 2 * usize::from(RACERS) - 5);

    let later = NOW + 60;
    let guess =
        move |store: Arc<S>, _| async move { store.begin_login(keys(0, 0), later).await.unwrap() };
    let attempts = bench.race(RACERS, guess).await;
    assert_eq!(count_of(&attempts, Attempt::Go), 1);
    for others in [keys(1, 0), keys(0, 1)] {
        let other = bench.store().begin_login(others, later).await;
        assert_eq!(other, Ok(Attempt::Go), "another account or address");
    }
}

async fn an_account_allows_strangers_fifty_guesses_and_an_address_that_it_knows_goes_on<
    S: Store,
>(
    bench: Bench<S>,
) {
    let guess = |store: Arc<S>, number: u8| async move {
        // Each from an address of its own.
        let attempt = store.begin_login(keys(0, number), NOW).await;
        attempt.unwrap()
    };
    let attempts = bench.race(60, guess).await;
    assert_eq!(count_of(&attempts, Attempt::Go), 50);
    let waits = Attempt::Wait(Duration::from_secs(3_600));
    assert_eq!(count_of(&attempts, waits), 10);
    // One that had to wait did not count for its address, nor for it at the account.
    for counted in [1, 3] {
        let counted = format!(
            "SELECT count(*) FROM login_attempts WHERE counted = {counted} AND failures > 0"
        );
        assert_eq!((bench.sql)(&counted), "50");
    }

    let known = LoginKeys {
        known: true,
        ..keys(0, 200)
    };
    let store = bench.store();
    for _ in 0..5 {
        assert_eq!(store.begin_login(known, NOW).await, Ok(Attempt::Go));
    }
    let held_up = store.begin_login(known, NOW).await;
    assert_eq!(held_up, Ok(Attempt::Wait(Duration::from_secs(60))));
    let stranger = store.begin_login(keys(0, 201), NOW + 3_599).await;
    assert_eq!(stranger, Ok(Attempt::Wait(Duration::from_secs(1))));
    let other = store.begin_login(keys(1, 201), NOW).await;
    assert_eq!(other, Ok(Attempt::Go), "another account is not affected");
    let later = store.begin_login(keys(0, 201), NOW + 3_600).await;
    assert_eq!(later, Ok(Attempt::Go));
}

async fn an_address_allows_twenty_guesses_over_all_accounts<S: Store>(bench: Bench<S>) {
    let guess = |store: Arc<S>, number: u8| async move {
        let attempt = store.begin_login(keys(number, 0), NOW).await;
        attempt.unwrap()
    };
    let attempts = bench.race(2 * RACERS, guess).await;
    assert_eq!(count_of(&attempts, Attempt::Go), 20);
    // One that had to wait did not count for its account.
    for counted in [2, 3] {
        let counted = format!(
            "SELECT count(*) FROM login_attempts WHERE counted = {counted} AND failures > 0"
        );
        assert_eq!((bench.sql)(&counted), "20");
    }
    let store = bench.store();
    let other = store.begin_login(keys(0, 1), NOW).await;
    assert_eq!(other, Ok(Attempt::Go), "another address is not affected");
    let later = store.begin_login(keys(2, 0), NOW + 600).await;
    assert_eq!(later, Ok(Attempt::Go));
}

async fn a_sign_in_that_succeeded_takes_its_count_back<S: Store>(bench: Bench<S>) {
    let [store, other] = &bench.stores;
    let user = bench.user().await.id;
    for _ in 0..60 {
        assert_eq!(store.begin_login(keys(1, 2), NOW).await, Ok(Attempt::Go));
        other.login_succeeded(user, keys(1, 2)).await.unwrap();
    }
    // The failures of the address at the account go with it, its others stay.
    for account in 10..14 {
        for _ in 0..5 {
            let attempt = store.begin_login(keys(account, 2), NOW).await;
            assert_eq!(attempt, Ok(Attempt::Go));
        }
        other.login_succeeded(user, keys(account, 2)).await.unwrap();
    }
    for _ in 0..4 {
        assert_eq!(store.begin_login(keys(10, 2), NOW).await, Ok(Attempt::Go));
    }
    let attempt = store.begin_login(keys(20, 2), NOW).await;
    assert_eq!(attempt, Ok(Attempt::Wait(Duration::from_secs(600))));
    // What others have guessed at the account stays too.
    for address in 100..149 {
        let attempt = store.begin_login(keys(30, address), NOW).await;
        assert_eq!(attempt, Ok(Attempt::Go));
    }
    let owner = keys(30, 3);
    assert_eq!(store.begin_login(owner, NOW).await, Ok(Attempt::Go));
    let stranger = store.begin_login(keys(30, 150), NOW).await;
    assert_eq!(stranger, Ok(Attempt::Wait(Duration::from_secs(3_600))));
    other.login_succeeded(user, owner).await.unwrap();
    for go in [Attempt::Go, Attempt::Wait(Duration::from_secs(3_600))] {
        assert_eq!(store.begin_login(keys(30, 151), NOW).await, Ok(go));
    }
    // Nothing was counted: nothing is taken back.
    store.login_succeeded(user, keys(90, 91)).await.unwrap();
}

async fn an_account_knows_the_last_four_addresses_that_signed_in<S: Store>(bench: Bench<S>) {
    let store = bench.store();
    let user = store.register(account("ada", None), None, NOW).await;
    let id = user.unwrap().id;
    let knows = |address: u8| async move {
        let found = store.account(&login("ada")).await.unwrap().unwrap();
        found.known_addresses.contains(keys(0, address).pair)
    };
    assert!(!knows(0).await);
    store.know_address(id, keys(0, 0).pair).await.unwrap();
    assert!(knows(0).await);
    let sign_in = move |store: Arc<S>, number: u8| async move {
        let signed_in = store.login_succeeded(id, keys(0, 1 + number)).await;
        signed_in.unwrap();
    };
    bench.race(RACERS, sign_in).await;
    let mut known = 0;
    for address in 0..=RACERS {
        known += u8::from(knows(address).await);
    }
    assert_eq!(known, 4);
    assert!(!knows(0).await, "the longest unused goes");
    let guest = bench.user().await;
    let no_account = store.know_address(guest.id, keys(0, 1).pair).await;
    assert_eq!(no_account, Ok(()));
    // With the account goes what it knew.
    store.delete(id).await.unwrap();
    assert_eq!(store.know_address(id, keys(0, 1).pair).await, Ok(()));
    let reborn = store.register(account("ada", None), None, NOW).await;
    reborn.unwrap();
    for address in 0..=RACERS {
        assert!(!knows(address).await, "{address}");
    }
}

async fn attempts_do_not_pile_up<S: Store>(bench: Bench<S>) {
    let store = bench.store();
    for number in 0..60 {
        let attempt = store.begin_login(keys(number, number), NOW).await;
        assert_eq!(attempt, Ok(Attempt::Go));
    }
    assert_eq!(bench.rows("login_attempts"), 180);
    for _ in 0..PRUNE_EVERY {
        let later = NOW + 3_600;
        store.begin_login(keys(200, 200), later).await.unwrap();
    }
    assert_eq!(bench.rows("login_attempts"), 3);

    // More than there may be, which nobody forgets for a long time.
    for counted in [2, 3] {
        (bench.sql)(&many_attempts(counted, COUNTS_MAX + 100));
    }
    for _ in 0..PRUNE_EVERY {
        let later = NOW + 3_600;
        store.begin_login(keys(200, 200), later).await.unwrap();
    }
    for counted in [2, 3] {
        let rows = bench.rows(&format!("login_attempts WHERE counted = {counted}"));
        assert!(rows <= COUNTS_MAX + i64::from(PRUNE_EVERY), "{rows}");
    }
}

async fn processes_that_ask_at_once_get_the_same_signing_keys<S: Store>(bench: Bench<S>) {
    let ask = |store: Arc<S>, _| async move { store.signing_keys(None, NOW).await.unwrap() };
    let mut asked: Vec<_> = bench
        .race(RACERS, ask)
        .await
        .into_iter()
        .map(|keys| {
            assert!(keys.previous.is_none(), "{keys:?}");
            assert_eq!(keys.current_since_unix_s, NOW);
            (
                keys.current.key_id,
                keys.current.seed,
                keys.next.key_id,
                keys.next.seed,
            )
        })
        .collect();
    asked.dedup();
    assert_eq!(asked.len(), 1);
    assert_ne!((&asked[0].0, &asked[0].1), (&asked[0].2, &asked[0].3));
    assert_eq!(bench.rows("signing_keys"), 2);
}

async fn signing_keys_move_on_by_one_place_however_many_processes_rotate<S: Store>(
    bench: Bench<S>,
) {
    let before = bench.store().signing_keys(None, NOW).await.unwrap();
    let mut last = before;
    for round in 1..4 {
        let now = NOW + round * 100;
        let early = bench
            .store()
            .signing_keys(Some(now - 100), now)
            .await
            .unwrap();
        assert_eq!(early.current.key_id, last.current.key_id, "not due yet");
        let rotate =
            |store: Arc<S>, _| async move { store.signing_keys(Some(now), now).await.unwrap() };
        for keys in bench.race(RACERS, rotate).await {
            let previous = keys.previous.unwrap();
            assert_eq!(previous.key_id, last.current.key_id);
            assert_eq!(previous.seed, last.current.seed);
            assert_eq!(keys.current.key_id, last.next.key_id);
            assert_eq!(keys.current.seed, last.next.seed);
            assert_eq!(keys.current_since_unix_s, now);
        }
        last = bench.stores[1].signing_keys(None, now).await.unwrap();
        assert_eq!(bench.rows("signing_keys"), 3);
    }
}

async fn a_closed_store_answers_with_an_error<S: Store>(bench: Bench<S>) {
    bench.store().ping().await.unwrap();
    bench.store().close().await;
    bench.store().close().await;
    assert_eq!(code(&bench.store().ping().await), Some(ErrorCode::Internal));
    bench.stores[1].ping().await.unwrap();
}

fn sqlite(path: &Path) -> Bench<Sqlite> {
    let open = || Arc::new(Sqlite::open(path, OF_TESTS).unwrap());
    let path = path.to_owned();
    Bench {
        stores: [open(), open()],
        sql: Box::new(move |sql| {
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection.busy_timeout(Duration::from_secs(60)).unwrap();
            if sql.starts_with("SELECT") {
                let count: i64 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
                count.to_string()
            } else {
                let changed = connection.execute(&in_sqlite_dialect(sql), []).unwrap();
                changed.to_string()
            }
        }),
    }
}

/// A server with a database that has the schema and the grants, to be copied for each rule.
struct Template {
    server: Arc<Server>,
}

/// As the documentation has it.
pub(super) const ROLE: &str = "dreamcatcher_auth";
const ROLE_PASSWORD: &str = "canary-p4ssword";

impl Template {
    async fn new() -> Self {
        let server = Arc::new(Server::start());
        let _ = server.sql("CREATE DATABASE template_auth");
        let config = StoreConfig::Postgres(admin(&server, "template_auth"));
        let migration = super::migrate(&config).await.unwrap();
        assert_eq!((migration.from, migration.to), (0, 3));
        sql(&server, "template_auth", &grants()).await;
        Self { server }
    }

    async fn bench(&self, rule: &str) -> Bench<Postgres> {
        // A name has at most 63 bytes.
        let database = rule.get(..50).unwrap_or(rule).to_owned();
        let create = format!("CREATE DATABASE {database} TEMPLATE template_auth");
        let _ = self.server.sql(&create);
        let open = || async {
            Arc::new(
                Postgres::open(&served(&self.server, &database), OF_TESTS)
                    .await
                    .unwrap(),
            )
        };
        let stores = [open().await, open().await];
        let server = Arc::clone(&self.server);
        Bench {
            stores,
            sql: Box::new(move |sql| {
                let (server, database, sql) =
                    (Arc::clone(&server), database.clone(), sql.to_owned());
                // The test's own runtime is busy with this test.
                std::thread::spawn(move || {
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(super::suite::sql(&server, &database, &sql))
                })
                .join()
                .unwrap()
            }),
        }
    }
}

/// The grants of the documentation of `postgres`, for the database that they are run in.
pub(super) fn grants() -> String {
    let documentation = include_str!("postgres/mod.rs");
    let statements: String = documentation
        .lines()
        .skip_while(|line| *line != "//! ```sql")
        .skip(1)
        .take_while(|line| *line != "//! ```")
        .map(|line| line.trim_start_matches("//! "))
        .collect::<Vec<_>>()
        .join("\n");
    assert!(statements.contains("GRANT SELECT, INSERT"), "{statements}");
    statements.replace("'…'", &format!("'{ROLE_PASSWORD}'"))
}

/// The last column of the last row, as text.
pub(super) async fn sql(server: &Server, database: &str, sql: &str) -> String {
    let url = url(server, database);
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let answers = client.simple_query(sql).await.unwrap();
    drop(client);
    let _ = connection.await;
    let value = |answer: &SimpleQueryMessage| {
        if let SimpleQueryMessage::Row(row) = answer {
            row.get(0).map(str::to_owned)
        } else {
            None
        }
    };
    answers.iter().rev().find_map(value).unwrap_or_default()
}

/// The superuser.
pub(super) fn admin(server: &Server, database: &str) -> PostgresConfig {
    PostgresConfig::new(&url(server, database))
}

fn url(server: &Server, database: &str) -> String {
    let url = server.url();
    let (base, _) = url.rsplit_once('/').unwrap();
    format!("{base}/{database}")
}

/// The role that serves.
pub(super) fn served(server: &Server, database: &str) -> PostgresConfig {
    let address = server.address();
    PostgresConfig {
        password: Some(ROLE_PASSWORD.into()),
        ..PostgresConfig::new(&format!("postgres://{ROLE}@{address}/{database}"))
    }
}

fn many_attempts(counted: i16, count: i64) -> String {
    format!(
        "INSERT INTO login_attempts
         SELECT {counted}, decode(lpad(to_hex(n), 64, '0'), 'hex'), 1, 0, {LATER} + n
         FROM generate_series(1, {count}) AS n"
    )
}

fn in_sqlite_dialect(sql: &str) -> String {
    match sql.rsplit_once("generate_series(1, ") {
        None => sql.to_owned(),
        Some((head, rest)) => {
            let count = rest.split(')').next().unwrap_or_default();
            let counted = head.split("SELECT ").nth(1).unwrap();
            let counted = counted.split(',').next().unwrap();
            format!(
                "WITH RECURSIVE numbers (n) AS (
                     SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
                 INSERT INTO login_attempts
                 SELECT {counted}, unhex(printf('%064x', n)), 1, 0, {LATER} + n FROM numbers"
            )
        }
    }
}

fn account(username: &str, email: Option<&str>) -> NewAccount {
    NewAccount {
        username: Username::try_from(username.to_owned()).unwrap(),
        email: email.map(|text| Email::try_from(text.to_owned()).unwrap()),
        password_hash: PasswordHash::try_from(
            "$argon2id$v=19$m=8,t=1,p=1$c2FsdA$aGFzaA".to_owned(),
        )
        .unwrap(),
        display_name: None,
    }
}

fn login(text: &str) -> Login {
    Login::try_from(text.to_owned()).unwrap()
}

fn name(text: &str) -> DisplayName {
    text.parse().unwrap()
}

fn token(number: u16) -> TokenHash {
    let mut hash = [0xab; 32];
    hash[..2].copy_from_slice(&number.to_be_bytes());
    TokenHash(hash)
}

/// Of a stranger.
fn keys(account: u8, address: u8) -> LoginKeys {
    let mut pair = [account; 32];
    pair[0] = address;
    LoginKeys {
        account: AttemptKey([account; 32]),
        address: AttemptKey([address; 32]),
        pair: AttemptKey(pair),
        known: false,
    }
}

fn count_of(attempts: &[Attempt], expected: Attempt) -> usize {
    let expected = attempts.iter().filter(|attempt| **attempt == expected);
    expected.count()
}

fn code<T>(result: &Result<T, Error>) -> Option<ErrorCode> {
    result.as_ref().err().map(Error::code)
}
