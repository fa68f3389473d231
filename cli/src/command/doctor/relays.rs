//! Each relay, as a player finds it: far or near, who it says it is, and whether it takes the player.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dreamcatcher_client::nearest::{self, Probed};
use dreamcatcher_client::{Client, ConnectOptions, Error, ErrorCode, Pick, RelayAddress, Worker};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::chart::{Chart, Finding};
use super::mesh_advice;
use crate::exit::Failure;
use crate::table::counted;

/// Relays that are looked at: those beyond are named, and `--relay` looks at one of them.
const RELAYS_MAX: usize = 16;
/// Connections at a time: relays allow a user no more.
const CONNECTING_MAX: usize = 4;

/// Looks at each; those that take the player, the nearest first.
pub(super) async fn examine(
    relays: &[RelayAddress],
    token: &str,
    chart: &mut Chart,
) -> Result<Vec<RelayAddress>, Failure> {
    let mut probed = nearest::probe(relays).await;
    probed.sort_by_key(|probed| probed.rtt.as_ref().map_or(Duration::MAX, |rtt| *rtt));
    let silent = probed.iter().filter(|probed| probed.rtt.is_err()).count();
    // Those that are silent above all: they are what the doctor is there for.
    if probed.len() > RELAYS_MAX {
        let nearest = RELAYS_MAX.saturating_sub(silent).max(1);
        let left_out = probed.len() - RELAYS_MAX;
        probed = rest(probed, nearest);
        let found = format!(
            "{} not looked at: --relay NODE does",
            counted(left_out as u64, "relay")
        );
        chart.note(Finding::skipped("relays", found))?;
    }
    let connected = connect_all(&probed, token).await;
    let mut usable = Vec::new();
    for (probed, connected) in probed.iter().zip(connected) {
        if note(probed, &connected, chart)? {
            usable.push(probed.relay.clone());
        }
    }
    Ok(usable)
}

/// As many of the first as `nearest` says, and the last ones, [`RELAYS_MAX`] in all.
fn rest(mut probed: Vec<Probed>, nearest: usize) -> Vec<Probed> {
    let last = probed.split_off(nearest.min(probed.len()));
    let skip = last.len().saturating_sub(RELAYS_MAX - probed.len());
    probed.extend(last.into_iter().skip(skip));
    probed
}

type Connected = (Duration, Result<(), Error>);

/// Connects to each alone, in their order.
async fn connect_all(probed: &[Probed], token: &str) -> Vec<Connected> {
    let worker = match Worker::spawn() {
        Ok(worker) => worker,
        Err(error) => {
            let failed = |_| (Duration::ZERO, Err(error.clone()));
            return probed.iter().map(failed).collect();
        }
    };
    let doors = Arc::new(Semaphore::new(CONNECTING_MAX));
    let mut connecting = JoinSet::new();
    for (place, probed) in probed.iter().enumerate() {
        let (worker, doors) = (worker.clone(), Arc::clone(&doors));
        let options = only(&probed.relay, token);
        connecting.spawn(async move {
            let _door = doors.acquire().await;
            let begun = Instant::now();
            let outcome = match Client::connect_on(&worker, options).await {
                Ok(client) => {
                    let took = begun.elapsed();
                    client.close().await;
                    (took, Ok(()))
                }
                Err(error) => (begun.elapsed(), Err(error)),
            };
            (place, outcome)
        });
    }
    let mut outcomes = connecting.join_all().await;
    outcomes.sort_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// This relay and no other.
pub(super) fn only(relay: &RelayAddress, token: &str) -> ConnectOptions {
    ConnectOptions {
        relays: vec![relay.clone()],
        pick: Pick::Listed,
        follow_owner: false,
        token: token.to_owned(),
        ..ConnectOptions::default()
    }
}

/// How a relay is called in a line.
pub(super) fn short(relay: &RelayAddress) -> String {
    match &relay.node_id {
        Some(node) => node.clone(),
        None => relay.address.to_string(),
    }
}

/// Notes UDP, QUIC and token; whether it takes the player.
fn note(probed: &Probed, connected: &Connected, chart: &mut Chart) -> Result<bool, Failure> {
    let Probed { relay, rtt } = probed;
    let name = short(relay);
    let (took, outcome) = connected;
    let shakes_hands = match outcome {
        Ok(()) => true,
        Err(error) => error.code() != ErrorCode::NoRelayReachable && !is_ours(error),
    };
    let address = relay.address;
    chart.note(match rtt {
        Ok(rtt) => {
            let region = relay.region.as_deref().unwrap_or("no region");
            let found = format!("answers from {address}, {region}");
            Finding::ok("udp", found).took(*rtt).of(&name)
        }
        Err(error) if shakes_hands => {
            let found = format!("{address}: {}, yet QUIC works", error.message());
            let advice = "something on the way drops the probes, so that players cannot tell how far \
                          this relay is";
            Finding::warning("udp", found, advice).of(&name)
        }
        Err(error) => {
            let found = format!("{address}: {}", error.message());
            let advice = format!(
                "check that the relay runs, that {address} is its address as players see it \
                 (--advertise), and that firewalls on both sides let UDP through to port {}",
                address.port()
            );
            Finding::failed("udp", found, advice).of(&name)
        }
    })?;
    match outcome {
        Ok(()) => {
            let found = "handshake, with the certificate that is on the list";
            chart.note(Finding::ok("quic", found).took(*took).of(&name))?;
            chart.note(Finding::ok("token", "taken").of(&name))?;
            Ok(true)
        }
        Err(error) if shakes_hands => {
            let found = "handshake, with the certificate that is on the list";
            chart.note(Finding::ok("quic", found).took(*took).of(&name))?;
            let finding = Finding::failed("token", error.to_string(), mesh_advice(error));
            chart.note(finding.of(&name))?;
            Ok(false)
        }
        Err(error) => {
            let finding = Finding::failed("quic", error.message(), quic_advice(rtt.is_ok(), error));
            chart.note(finding.took(*took).of(&name))?;
            chart.note(Finding::skipped("token", "there is no connection").of(&name))?;
            Ok(false)
        }
    }
}

/// An error that says nothing about the relay.
fn is_ours(error: &Error) -> bool {
    matches!(
        error.code(),
        ErrorCode::InvalidArgument | ErrorCode::Internal | ErrorCode::ProtocolVersion
    )
}

fn quic_advice(answers_probes: bool, error: &Error) -> &'static str {
    if error.message().contains("not one of the pinned ones") {
        "another program, or another relay, answers at this address; or the relay was started anew \
         and the auth service still lists its former certificate: look again in a minute, and check \
         that no two relays share an address or an id"
    } else if error.code() == ErrorCode::ProtocolVersion {
        mesh_advice(error)
    } else if answers_probes {
        "the relay is there, but does not complete a handshake: its log and its /readyz say more; \
         a network that lets only small packets through would do this too"
    } else {
        "mend udp first"
    }
}
