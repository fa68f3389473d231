//! How often one address may sign in.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses that are remembered at a time. Beyond that those with the fullest buckets are forgotten
/// first: whoever is out of tokens stays so.
const ADDRESSES_MAX: usize = 10_000;

/// A token bucket: `burst` at once, then `per_s` each second. 0 in either counts as 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    pub per_s: u32,
}

impl Rate {
    fn interval(self) -> Duration {
        Duration::from_secs(1) / self.per_s.max(1)
    }

    /// How long an empty bucket takes to fill.
    fn window(self) -> Duration {
        self.interval() * self.burst.max(1)
    }
}

/// The buckets of all addresses. Of each only the moment is kept at which it is full again (the
/// generic cell rate algorithm, ITU-T I.371): one that is full need not be remembered at all.
#[derive(Debug)]
pub(crate) struct Limiter {
    rate: Rate,
    rate_loopback: Rate,
    full_at: HashMap<IpAddr, Instant>,
}

impl Limiter {
    pub(crate) fn new(rate: Rate, rate_loopback: Rate) -> Self {
        Self {
            rate,
            rate_loopback,
            full_at: HashMap::new(),
        }
    }

    /// Takes one token of `address`, or says how long until there is one.
    pub(crate) fn take(&mut self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let key = bucket_of(address);
        let rate = if key.is_loopback() {
            self.rate_loopback
        } else {
            self.rate
        };
        let full_at = self.full_at.get(&key).map_or(now, |at| (*at).max(now)) + rate.interval();
        let missing = full_at.duration_since(now).saturating_sub(rate.window());
        if !missing.is_zero() {
            return Err(missing);
        }
        if self.full_at.len() >= ADDRESSES_MAX && !self.full_at.contains_key(&key) {
            self.forget(now);
        }
        self.full_at.insert(key, full_at);
        Ok(())
    }

    /// Makes room: drops the buckets that are full again, and if that frees none, the fuller half, so
    /// that a flood of new addresses pays for one pass over the table once in thousands of requests.
    fn forget(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= ADDRESSES_MAX {
            let mut times: Vec<Instant> = self.full_at.values().copied().collect();
            let (_, median, _) = times.select_nth_unstable(ADDRESSES_MAX / 2);
            self.full_at.retain(|_, full_at| *full_at > *median);
        }
    }
}

/// One household or machine: an IPv4 address, or an IPv6 /64, of which anyone has 2⁶⁴ addresses.
pub(crate) fn bucket_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) if v6.is_loopback() => IpAddr::V6(v6),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, per_s: 2 };

    #[test]
    fn a_burst_passes_then_one_per_interval() {
        let (mut limiter, now) = (limiter(), Instant::now());
        let ms = Duration::from_millis;
        for _ in 0..3 {
            assert_eq!(limiter.take(ip("192.0.2.1"), now), Ok(()));
        }
        assert_eq!(limiter.take(ip("192.0.2.1"), now), Err(ms(500)));
        assert_eq!(limiter.take(ip("192.0.2.1"), now + ms(400)), Err(ms(100)));
        assert_eq!(limiter.take(ip("192.0.2.1"), now + ms(500)), Ok(()));
        assert_eq!(limiter.take(ip("192.0.2.1"), now + ms(500)), Err(ms(500)));
        assert_eq!(
            limiter.take(ip("192.0.2.2"), now),
            Ok(()),
            "another address is not affected"
        );
    }

    #[test]
    fn a_whole_ipv6_subnet_is_one_address_and_mapped_ipv4_is_ipv4() {
        assert_eq!(
            bucket_of(ip("2001:db8::1")),
            bucket_of(ip("2001:db8::ffff:1"))
        );
        assert_ne!(
            bucket_of(ip("2001:db8::1")),
            bucket_of(ip("2001:db8:0:1::1"))
        );
        assert_eq!(bucket_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert!(bucket_of(ip("::1")).is_loopback());
    }

    #[test]
    fn loopback_has_a_rate_of_its_own() {
        let (mut limiter, now) = (limiter(), Instant::now());
        for _ in 0..1_000 {
            assert_eq!(limiter.take(ip("127.0.0.1"), now), Ok(()));
        }
        assert!(limiter.take(ip("127.0.0.1"), now).is_err());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_emptiest_buckets() {
        let (mut limiter, now) = (limiter(), Instant::now());
        for _ in 0..3 {
            assert_eq!(limiter.take(ip("198.51.100.1"), now), Ok(()));
        }
        for number in 0..2 * ADDRESSES_MAX as u32 {
            assert_eq!(
                limiter.take(IpAddr::V4((0x0a00_0000 + number).into()), now),
                Ok(())
            );
        }
        assert!(limiter.full_at.len() <= ADDRESSES_MAX);
        assert!(limiter.take(ip("198.51.100.1"), now).is_err());
        let later = now + Duration::from_secs(2);
        limiter.forget(later);
        assert!(limiter.full_at.is_empty(), "full buckets are forgotten");
    }

    fn limiter() -> Limiter {
        Limiter::new(
            RATE,
            Rate {
                burst: 1_000,
                per_s: 1,
            },
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{e}"))
    }
}
