//! Which relay is nearest: how long each takes to answer a packet that costs it nothing.
//!
//! ```text
//!   client ──1,200 bytes, QUIC long header, a version that nobody speaks──▶ relay
//!          ◀──Version Negotiation, the same connection ids────────────────── (stateless)
//! ```
//!
//! The version is one of those reserved to keep negotiation working (RFC 9000, 15); form and answer
//! are the same for every version (RFC 8999). A relay answers whatever its load, without a trace, so
//! the time says how far it is, not whether it has room: that is what the relay list is for.
//!
//! Each probe carries 128 random bits that the answer must repeat: nobody who does not see the packet
//! can forge one.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use dreamcatcher_proto::{Error, ErrorCode};
use tokio::sync::oneshot;

use crate::core::RelayAddress;
use crate::core::random::Random;

/// Probes of one relay: the median of three is not moved by one that was late.
pub const PROBES: usize = 3;
/// Relays that are probed at a time: more would cost more than a nearer one gains.
pub const CANDIDATES_MAX: usize = 5;
/// Answers are waited for this long: who is farther away than that is of no use to a game.
pub const PROBE_WITHIN: Duration = Duration::from_millis(600);
/// Between two probes of one relay: apart enough not to wait in the same queue.
const SPACING: Duration = Duration::from_millis(20);
/// A server drops smaller ones (RFC 9000, 5.2.2), or it would send more than it was sent.
const PROBE_BYTES: usize = 1_200;
/// Each of the two connection ids, all of it random.
const ID_BYTES: usize = 8;
/// Long header and fixed bit (RFC 9000, 17.2).
const LONG_HEADER: u8 = 0xc0;
/// The form `0x?a?a?a?a` of the reserved versions.
const RESERVED: u32 = 0x0a0a_0a0a;
/// Relays that one call of [`probe`] takes on: a mesh has tens.
const PROBED_MAX: usize = 256;
/// The largest answer that is looked at; Version Negotiation is a tenth of it.
const ANSWER_BYTES_MAX: usize = 1_500;

/// What came of probing a relay.
#[derive(Clone, Debug)]
pub struct Probed {
    pub relay: RelayAddress,
    /// The median round trip, or why there is none.
    pub rtt: Result<Duration, Error>,
}

/// Measures the round trip to each relay, at once, within [`PROBE_WITHIN`]; the answers come in the
/// order of `relays`. Those beyond 256 are not probed.
pub async fn probe(relays: &[RelayAddress]) -> Vec<Probed> {
    let relays = relays.to_vec();
    let failed = relays.clone();
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("dreamcatcher-probe".to_owned())
        .spawn(move || {
            // Nobody waits any more if this fails.
            let _ = done.send(probe_all(relays));
        });
    if let Err(error) = thread {
        return all_failed(failed, &internal(&error));
    }
    match result.await {
        Ok(probed) => probed,
        Err(_) => all_failed(failed, &ErrorCode::Internal.into()),
    }
}

fn probe_all(relays: Vec<RelayAddress>) -> Vec<Probed> {
    let mut seed = [0; 32];
    if aws_lc_rs::rand::fill(&mut seed).is_err() {
        let error = Error::new(ErrorCode::Internal, "the system gives no random bytes");
        return all_failed(relays, &error);
    }
    let mut rtts: Vec<Result<Duration, Error>> = relays.iter().map(|_| Err(silent())).collect();
    std::thread::scope(|scope| {
        // A socket of one family reaches no relay of the other.
        let families = [false, true].map(|ipv6| {
            let of_family = relays.iter().enumerate().take(PROBED_MAX);
            let (places, targets): (Vec<usize>, Vec<SocketAddr>) = of_family
                .filter(|(_, relay)| relay.address.is_ipv6() == ipv6)
                .map(|(place, relay)| (place, relay.address))
                .unzip();
            seed[0] ^= u8::from(ipv6);
            let thread = scope.spawn(move || probe_family(&targets, ipv6, seed));
            (places, thread)
        });
        for (places, thread) in families {
            let measured = match thread.join() {
                Ok(Ok(measured)) => measured.into_iter().map(|rtt| rtt.ok_or_else(silent)),
                Ok(Err(error)) => {
                    places
                        .iter()
                        .for_each(|&place| rtts[place] = Err(internal(&error)));
                    continue;
                }
                Err(_) => continue,
            };
            for (place, rtt) in places.into_iter().zip(measured) {
                rtts[place] = rtt;
            }
        }
    });
    let probed = relays.into_iter().zip(rtts);
    probed.map(|(relay, rtt)| Probed { relay, rtt }).collect()
}

fn probe_family(
    targets: &[SocketAddr],
    ipv6: bool,
    seed: [u8; 32],
) -> std::io::Result<Vec<Option<Duration>>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let any: SocketAddr = if ipv6 {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    let mut survey = Survey::new(targets, PROBES, seed, Instant::now());
    let (mut probe, mut answer) = (Vec::new(), [0; ANSWER_BYTES_MAX]);
    while let Some(due) = survey.poll_timeout() {
        while let Some(to) = survey.poll_transmit(Instant::now(), &mut probe) {
            // A probe that cannot be sent is one that is not answered.
            let _ = socket.send_to(&probe, to);
        }
        let wait = due.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        // An error is a time that is up, or news of a probe that did not arrive.
        if let Ok((size, from)) = socket.recv_from(&mut answer) {
            survey.handle_datagram(from, &answer[..size], Instant::now());
        }
        survey.handle_timeout(Instant::now());
    }
    Ok(survey.medians())
}

fn all_failed(relays: Vec<RelayAddress>, error: &Error) -> Vec<Probed> {
    let failed = |relay| Probed {
        relay,
        rtt: Err(error.clone()),
    };
    relays.into_iter().map(failed).collect()
}

/// What a relay that answers no probe is told to be.
pub(crate) fn silent() -> Error {
    let within = PROBE_WITHIN.as_millis();
    let message = format!("no answer to {PROBES} probes within {within} ms; is UDP blocked?");
    Error::new(ErrorCode::TimedOut, message)
}

fn internal(error: &std::io::Error) -> Error {
    Error::new(ErrorCode::Internal, format!("probing: {error}"))
}

/// One measurement of several relays, without I/O: call [`Self::handle_datagram`] for what comes,
/// [`Self::handle_timeout`], then [`Self::poll_transmit`] until there is nothing more. It is over
/// when [`Self::poll_timeout`] is `None`.
pub struct Survey {
    probes: usize,
    began: Instant,
    random: Random,
    targets: Vec<Target>,
    over: bool,
}

#[derive(Debug)]
struct Target {
    address: SocketAddr,
    sent: Vec<Probe>,
}

#[derive(Debug)]
struct Probe {
    /// Destination and source connection id.
    ids: [u8; 2 * ID_BYTES],
    at: Instant,
    rtt: Option<Duration>,
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey")
            .field("targets", &self.targets.len())
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl Survey {
    /// `probes` to each target, from `now` on. The seed must be one that nobody can guess.
    #[must_use]
    pub fn new(targets: &[SocketAddr], probes: usize, seed: [u8; 32], now: Instant) -> Self {
        let target = |&address: &SocketAddr| Target {
            address,
            sent: Vec::with_capacity(probes),
        };
        Self {
            probes,
            began: now,
            random: Random::new(seed),
            targets: targets.iter().map(target).collect(),
            over: targets.is_empty() || probes == 0,
        }
    }

    /// Fills `buffer` with the next probe that is due, in place of what it held.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<SocketAddr> {
        if self.over {
            return None;
        }
        let due = self.probes_due(now);
        let target = self
            .targets
            .iter_mut()
            .find(|target| target.sent.len() < due)?;
        let draw = self.random.draw();
        let (version, ids) = (
            draw[..4].try_into().ok()?,
            draw[4..4 + 2 * ID_BYTES].try_into().ok()?,
        );
        write_probe(u32::from_be_bytes(version), ids, draw[31], buffer);
        target.sent.push(Probe {
            ids,
            at: now,
            rtt: None,
        });
        Some(target.address)
    }

    /// Whether the datagram answers one of the probes; if not, it is for somebody else.
    pub fn handle_datagram(&mut self, from: SocketAddr, data: &[u8], now: Instant) -> bool {
        let Some(ids) = answered_ids(data) else {
            return false;
        };
        if self.over {
            return false;
        }
        let of_target = self
            .targets
            .iter_mut()
            .filter(|target| target.address == from);
        let Some(probe) = of_target
            .flat_map(|target| &mut target.sent)
            .find(|probe| probe.ids == ids && probe.rtt.is_none())
        else {
            return false;
        };
        probe.rtt = Some(now.saturating_duration_since(probe.at));
        let whole = |target: &Target| {
            target.sent.len() == self.probes && target.sent.iter().all(|probe| probe.rtt.is_some())
        };
        self.over = self.targets.iter().all(whole);
        true
    }

    /// Ends it when its time is up.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.over |= self.began + PROBE_WITHIN <= now;
    }

    /// When there is a probe to send, or the time is up; `None` once it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.over {
            return None;
        }
        let sent = self.targets.iter().map(|target| target.sent.len()).min()?;
        Some(if sent < self.probes {
            self.began + SPACING * sent as u32
        } else {
            self.began + PROBE_WITHIN
        })
    }

    /// The median of what each target answered, in the order of the targets.
    #[must_use]
    pub fn medians(&self) -> Vec<Option<Duration>> {
        self.targets.iter().map(Target::median).collect()
    }

    /// Probes of each target that are due by now.
    fn probes_due(&self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.began).as_micros();
        let due = 1 + passed / SPACING.as_micros();
        usize::try_from(due).map_or(self.probes, |due| due.min(self.probes))
    }
}

impl Target {
    /// Of two the smaller: what makes an answer late is never the distance.
    fn median(&self) -> Option<Duration> {
        let mut rtts: Vec<Duration> = self.sent.iter().filter_map(|probe| probe.rtt).collect();
        rtts.sort_unstable();
        rtts.get(rtts.len().checked_sub(1)? / 2).copied()
    }
}

fn write_probe(version: u32, ids: [u8; 2 * ID_BYTES], first: u8, buffer: &mut Vec<u8>) {
    let (destination, source) = ids.split_at(ID_BYTES);
    buffer.clear();
    buffer.push(LONG_HEADER | (first & 0x3f));
    buffer.extend_from_slice(&(version & 0xf0f0_f0f0 | RESERVED).to_be_bytes());
    for id in [destination, source] {
        buffer.push(ID_BYTES as u8);
        buffer.extend_from_slice(id);
    }
    buffer.resize(PROBE_BYTES, 0);
}

/// The ids of the probe that this Version Negotiation packet (RFC 8999, 6) answers: it returns them
/// in the other order.
fn answered_ids(data: &[u8]) -> Option<[u8; 2 * ID_BYTES]> {
    const IDS_END: usize = 5 + 2 * (1 + ID_BYTES);
    let (header, versions) = data.split_at_checked(IDS_END)?;
    let is_negotiation = header[0] & 0x80 != 0 && header[1..5] == [0; 4];
    let lengths = [header[5], header[6 + ID_BYTES]];
    let is_whole =
        lengths == [ID_BYTES as u8; 2] && !versions.is_empty() && versions.len().is_multiple_of(4);
    if !is_negotiation || !is_whole {
        return None;
    }
    let mut ids = [0; 2 * ID_BYTES];
    ids[..ID_BYTES].copy_from_slice(&header[7 + ID_BYTES..]);
    ids[ID_BYTES..].copy_from_slice(&header[6..6 + ID_BYTES]);
    Some(ids)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;
    use crate::block_on;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_probe_is_large_enough_to_be_answered_and_of_a_version_that_nobody_speaks() {
        let now = Instant::now();
        let mut survey = Survey::new(&[address(1)], PROBES, [1; 32], now);
        let mut probe = Vec::new();
        assert_eq!(survey.poll_transmit(now, &mut probe), Some(address(1)));
        assert_eq!(probe.len(), PROBE_BYTES);
        assert_eq!(probe[0] & 0xc0, 0xc0, "a long header, the fixed bit set");
        assert!(probe[1..5].iter().all(|byte| byte & 0x0f == 0x0a));
        assert_eq!((probe[5], probe[14]), (8, 8));
        assert_eq!(survey.poll_transmit(now, &mut probe), None, "one at a time");
    }

    #[test]
    fn the_median_of_three_counts_and_one_late_answer_does_not() {
        let mut now = Instant::now();
        let mut survey = Survey::new(&[address(1)], PROBES, [1; 32], now);
        let mut probes = Vec::new();
        for _ in 0..PROBES {
            now = survey.poll_timeout().unwrap();
            let mut probe = Vec::new();
            survey.poll_transmit(now, &mut probe).unwrap();
            probes.push((now, probe));
        }
        for ((sent, probe), rtt) in probes.iter().zip([20, 190, 21]) {
            assert!(survey.handle_datagram(address(1), &negotiation(probe), *sent + MS * rtt));
        }
        assert_eq!(survey.medians(), [Some(21 * MS)]);
        assert_eq!(
            survey.poll_timeout(),
            None,
            "over as soon as all have answered"
        );
    }

    #[test]
    fn who_does_not_answer_is_waited_for_no_longer_than_the_limit() {
        let start = Instant::now();
        let mut survey = Survey::new(&[address(1), address(2)], PROBES, [1; 32], start);
        let mut last = start;
        let (mut sent, mut probe) = (0, Vec::new());
        while let Some(due) = survey.poll_timeout() {
            last = due;
            while let Some(to) = survey.poll_transmit(due, &mut probe) {
                sent += 1;
                if to == address(1) {
                    assert!(survey.handle_datagram(to, &negotiation(&probe), due + 5 * MS));
                }
            }
            survey.handle_timeout(due);
        }
        assert_eq!((sent, last - start), (2 * PROBES, PROBE_WITHIN));
        assert_eq!(survey.medians(), [Some(5 * MS), None]);
        // Too late is not at all.
        assert!(!survey.handle_datagram(address(2), &negotiation(&probe), last));
        assert_eq!(survey.medians()[1], None);
    }

    #[test]
    fn only_the_relay_that_was_asked_can_answer_and_only_once() {
        let now = Instant::now();
        let mut survey = Survey::new(&[address(1), address(2)], 2, [1; 32], now);
        let mut probe = Vec::new();
        survey.poll_transmit(now, &mut probe).unwrap();
        let good = negotiation(&probe);
        let mut forged = vec![
            Vec::new(),
            good[..22].to_vec(),
            good[..23].to_vec(),
            good[..25].to_vec(),
        ];
        // The first byte, a version, and each byte of the ids and their lengths.
        for at in [0, 3].into_iter().chain(5..23) {
            let mut bytes = good.clone();
            bytes[at] ^= 0x80;
            forged.push(bytes);
        }
        for bytes in forged {
            assert!(
                !survey.handle_datagram(address(1), &bytes, now),
                "{bytes:?}"
            );
        }
        assert!(
            !survey.handle_datagram(address(2), &good, now),
            "another relay"
        );
        assert!(
            !survey.handle_datagram(address(3), &good, now),
            "a stranger"
        );
        assert!(survey.handle_datagram(address(1), &good, now + MS));
        assert!(
            !survey.handle_datagram(address(1), &good, now + 9 * MS),
            "a copy"
        );
        assert_eq!(survey.medians(), [Some(MS), None]);
    }

    #[test]
    fn relays_are_probed_over_real_sockets_and_who_is_silent_has_a_cause() {
        let relay =
            |socket: &UdpSocket| RelayAddress::new(socket.local_addr().unwrap(), vec![[0; 32]]);
        let answering = UdpSocket::bind("127.0.0.1:0").unwrap();
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let relays = [relay(&silent), relay(&answering)];
        let answers = std::thread::spawn(move || {
            let mut buffer = [0; 2_000];
            for _ in 0..PROBES {
                let (size, from) = answering.recv_from(&mut buffer).unwrap();
                answering
                    .send_to(&negotiation(&buffer[..size]), from)
                    .unwrap();
            }
        });
        let probed = block_on(probe(&relays));
        answers.join().unwrap();
        assert_eq!(probed.len(), 2);
        let error = probed[0].rtt.clone().unwrap_err();
        assert!(error.message().contains("no answer to 3 probes"), "{error}");
        assert!(*probed[1].rtt.as_ref().unwrap() < PROBE_WITHIN);
        assert_eq!(probed[1].relay, relays[1]);
        assert!(block_on(probe(&[])).is_empty());
    }

    /// As a relay answers: the ids in the other order, and the versions that it speaks.
    fn negotiation(probe: &[u8]) -> Vec<u8> {
        let mut answer = vec![0xc7, 0, 0, 0, 0];
        answer.extend_from_slice(&probe[14..23]);
        answer.extend_from_slice(&probe[5..14]);
        answer.extend_from_slice(&[0, 0, 0, 1]);
        answer
    }

    fn address(host: u8) -> SocketAddr {
        ([10, 0, 0, host], 4433).into()
    }
}
