//! A session through two relays: created on one, joined from the other, a message there and back.

use std::future::Future;
use std::time::{Duration, Instant};

use dreamcatcher_client::auth::SignIn;
use dreamcatcher_client::{
    Client, Error, ErrorCode, Event, Mode, PeerId, RelayAddress, Session, SessionOptions, Target,
};

use super::chart::{Chart, Finding};
use super::relays::{only, short};
use super::{Visit, guest, mesh_advice, take_leave};
use crate::exit::Failure;

/// For each step in the session: relays wait 5 s at most for each other.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// What is sent there and back.
const WORDS: &str = "are you there?";

/// Plays for a moment on the two nearest of `usable`; whether it works.
pub(super) async fn examine(
    visit: &Visit,
    player: &SignIn,
    usable: &[RelayAddress],
    chart: &mut Chart,
) -> Result<bool, Failure> {
    let Some(here) = usable.first() else {
        return Ok(false);
    };
    let there = usable.get(1).unwrap_or(here);
    let friend = match guest(visit).await {
        Ok(friend) => friend,
        Err(error) => {
            let found = format!("a second player cannot sign in: {error}");
            let advice = super::sign_in_advice(&error);
            chart.note(Finding::failed("session", found, advice))?;
            return Ok(false);
        }
    };
    let played = play(here, &player.token, there, &friend.token).await;
    let as_guest = Visit {
        auth: visit.auth.clone(),
        relay: None,
        account: None,
    };
    take_leave(&as_guest, friend).await;
    let between = if usable.len() > 1 {
        format!("{} and {}", short(here), short(there))
    } else {
        format!("{} alone, for want of another one", short(here))
    };
    let works = played.is_ok();
    chart.note(match played {
        Ok(round_trip) => {
            let found = format!("Ordered, there and back through {between}");
            Finding::ok("session", found).took(round_trip)
        }
        Err((doing, error)) => {
            let found = format!("{doing} fails through {between}: {error}");
            Finding::failed("session", found, mesh_advice(&error))
        }
    })?;
    Ok(works)
}

/// What was tried, and what came of it.
type Failed = (&'static str, Error);

async fn play(
    here: &RelayAddress,
    token: &str,
    there: &RelayAddress,
    friends_token: &str,
) -> Result<Duration, Failed> {
    let client = within("connecting", Client::connect(only(here, token))).await?;
    let friend = within("connecting", Client::connect(only(there, friends_token))).await?;
    let mut session = within(
        "creating a session",
        client.create(SessionOptions {
            empty_ttl: Duration::ZERO, // nothing is left of it
            ..SessionOptions::default()
        }),
    )
    .await?;
    let code = session.code().map(|code| code.to_string());
    let code = code.ok_or(("creating a session", ErrorCode::Internal.into()))?;
    let mut joined = within("joining by code", friend.join_code(&code)).await?;
    let round_trip = within("the message", there_and_back(&mut session, &mut joined)).await?;
    let parting = async {
        joined.leave().await;
        session.leave().await;
        friend.close().await;
        client.close().await;
        Ok(())
    };
    within("leaving", parting).await?;
    Ok(round_trip)
}

async fn there_and_back(session: &mut Session, joined: &mut Session) -> Result<Duration, Error> {
    let begun = Instant::now();
    session.send(Mode::Ordered, Target::All, WORDS)?;
    hear(joined, session.peer()).await?;
    joined.send(Mode::Ordered, Target::All, WORDS)?;
    hear(session, joined.peer()).await?;
    Ok(begun.elapsed())
}

/// Waits for the words from `sender`.
async fn hear(session: &mut Session, sender: PeerId) -> Result<(), Error> {
    while let Some(event) = session.recv().await {
        match event {
            Event::Message {
                sender: from,
                payload,
                ..
            } if from == sender && payload == WORDS => return Ok(()),
            Event::Rejected { error, .. } | Event::Ended { error, .. } => return Err(error),
            Event::Message { .. }
            | Event::PeerJoined(_)
            | Event::PeerDropped(_)
            | Event::PeerRejoined(_)
            | Event::PeerLeft { .. }
            | Event::Committed { .. }
            | Event::ReliableGap { .. }
            | Event::Reconnecting
            | Event::Resumed => {}
        }
    }
    Err(ErrorCode::SessionClosed.into())
}

async fn within<T>(
    doing: &'static str,
    step: impl Future<Output = Result<T, Error>>,
) -> Result<T, Failed> {
    match tokio::time::timeout(STEP_WITHIN, step).await {
        Ok(outcome) => outcome.map_err(|error| (doing, error)),
        Err(_) => {
            let message = format!("nothing came of it within {STEP_WITHIN:?}");
            Err((doing, Error::new(ErrorCode::TimedOut, message)))
        }
    }
}
