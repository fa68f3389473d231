//! Which newcomers are served: so many connections per address, so many new ones per network.
//!
//! ```text
//!   Initial ──▶ judge ─┬─ Accept ──▶ opened … closed
//!                      ├─ Retry: show first that the address is yours (RFC 9000, 8.1.2)
//!                      └─ Refuse
//! ```
//!
//! An address that was not shown to be real counts against its network only up to half of what the
//! network may: whoever forges a victim's address cannot lock the victim out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use super::io::Quotas;

/// Networks remembered before those with nothing used up are forgotten.
const NETWORKS_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    Retry,
    Refuse,
}

#[derive(Debug)]
pub(super) struct Admission {
    quotas: Quotas,
    /// Until when each network has used up what it may.
    networks: BTreeMap<IpAddr, Instant>,
    /// Open connections.
    addresses: BTreeMap<IpAddr, u32>,
}

impl Admission {
    pub(super) fn new(quotas: Quotas) -> Self {
        Self {
            quotas,
            networks: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// What to do about a newcomer; one that is accepted is counted for its network.
    pub(super) fn judge(&mut self, ip: IpAddr, is_validated: bool, now: Instant) -> Verdict {
        if self.quotas.always_retry && !is_validated {
            return Verdict::Retry;
        }
        let Some(address) = self.counted(ip) else {
            return Verdict::Accept;
        };
        let refusal = if is_validated {
            Verdict::Refuse
        } else {
            Verdict::Retry
        };
        let open = self.addresses.get(&address).copied().unwrap_or(0);
        let max = self.quotas.connections_per_address;
        if max > 0 && open >= max {
            return refusal;
        }
        if self.take(masked(ip, 24, 48), is_validated, now) {
            Verdict::Accept
        } else {
            refusal
        }
    }

    /// A connection was accepted; what is returned is to be given back when it is gone.
    pub(super) fn opened(&mut self, ip: IpAddr) -> Option<IpAddr> {
        let address = self.counted(ip)?;
        *self.addresses.entry(address).or_default() += 1;
        Some(address)
    }

    pub(super) fn closed(&mut self, address: IpAddr) {
        if let Some(open) = self.addresses.get_mut(&address) {
            *open -= 1;
            if *open == 0 {
                self.addresses.remove(&address);
            }
        }
    }

    /// Addresses with open connections.
    pub(super) fn addresses(&self) -> usize {
        self.addresses.len()
    }

    /// Whom a connection from there counts for, unless it is exempt.
    fn counted(&self, ip: IpAddr) -> Option<IpAddr> {
        let ip = ip.to_canonical();
        (!ip.is_loopback() || self.quotas.limit_loopback).then(|| masked(ip, 32, 64))
    }

    fn take(&mut self, network: IpAddr, is_validated: bool, now: Instant) -> bool {
        let Quotas {
            new_per_s,
            new_burst,
            ..
        } = self.quotas;
        if new_per_s == 0 {
            return true;
        }
        if self.networks.len() >= NETWORKS_MAX && !self.networks.contains_key(&network) {
            self.networks.retain(|_, used_until| *used_until > now);
            if self.networks.len() >= NETWORKS_MAX {
                // That many at once are forged: those that prove themselves are few.
                return is_validated;
            }
        }
        let every = Duration::from_secs(1) / new_per_s;
        let burst = if is_validated {
            new_burst
        } else {
            new_burst / 2
        };
        let used_until = self.networks.entry(network).or_insert(now);
        let used = used_until.saturating_duration_since(now);
        if used + every > every * burst {
            return false;
        }
        *used_until = now + used + every;
        true
    }
}

/// The address without its last bits.
fn masked(ip: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - v4_bits).unwrap_or(0);
            IpAddr::V4((u32::from(ip) & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - v6_bits).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(ip) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed step fails the test")]

    use super::*;

    #[test]
    fn an_address_has_so_many_connections_and_gets_places_back() {
        let mut admission = Admission::new(Quotas {
            connections_per_address: 2,
            new_per_s: 0,
            ..Quotas::default()
        });
        let now = Instant::now();
        let judge = |admission: &mut Admission, from: &str| admission.judge(ip(from), true, now);
        let first = admission.opened(ip("2001:db8::1")).unwrap();
        assert_eq!(judge(&mut admission, "2001:db8::2"), Verdict::Accept);
        admission.opened(ip("2001:db8::2"));
        assert_eq!(
            judge(&mut admission, "2001:db8::3"),
            Verdict::Refuse,
            "one /64"
        );
        assert_eq!(judge(&mut admission, "2001:db8:0:1::3"), Verdict::Accept);
        admission.closed(first);
        assert_eq!(judge(&mut admission, "2001:db8::3"), Verdict::Accept);
        admission.closed(first);
        assert_eq!(admission.addresses(), 0);
    }

    #[test]
    fn a_network_has_a_burst_and_a_rate_of_which_forged_addresses_take_half() {
        let mut admission = Admission::new(Quotas::default());
        let now = Instant::now();
        let accepted = |admission: &mut Admission, validated, now| {
            (0..100_u8)
                .take_while(|n| {
                    let from = ip(&format!("203.0.113.{n}"));
                    admission.judge(from, validated, now) == Verdict::Accept
                })
                .count()
        };
        assert_eq!(accepted(&mut admission, false, now), 20);
        let forged = admission.judge(ip("203.0.113.200"), false, now);
        assert_eq!(forged, Verdict::Retry);
        assert_eq!(accepted(&mut admission, true, now), 20);
        let refused = admission.judge(ip("203.0.113.200"), true, now);
        assert_eq!(refused, Verdict::Refuse);
        let other = admission.judge(ip("203.0.114.1"), false, now);
        assert_eq!(other, Verdict::Accept);
        let later = now + Duration::from_secs(1);
        assert_eq!(
            accepted(&mut admission, true, later),
            20,
            "a second's worth"
        );
    }

    #[test]
    fn loopback_is_exempt_unless_it_is_not_and_every_newcomer_may_have_to_show_its_address() {
        let now = Instant::now();
        let mut exempt = Admission::new(Quotas::default());
        assert!((0..1_000).all(|_| exempt.judge(ip("127.0.0.1"), false, now) == Verdict::Accept));
        assert_eq!(exempt.opened(ip("::1")), None);
        let mut strict = Admission::new(Quotas {
            limit_loopback: true,
            always_retry: true,
            ..Quotas::default()
        });
        assert_eq!(strict.judge(ip("127.0.0.1"), false, now), Verdict::Retry);
        assert_eq!(strict.judge(ip("127.0.0.1"), true, now), Verdict::Accept);
        // An IPv4 client of a dual-stack socket is that IPv4 client.
        let mapped = strict.opened(ip("::ffff:127.0.0.1"));
        assert_eq!(mapped, Some(ip("127.0.0.1")));
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }
}
