//! Whose request it is: the address that limits count.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Proxies in a row that are looked through; nobody has more.
const HOPS_MAX: usize = 16;

/// The address that a request came from. Every proxy appends the address that it saw, and anybody can
/// write the header, so it is read from its end and only as far as our own proxies wrote it: the first
/// address that is not one of them is the client's.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    let is_ours = |address: IpAddr| trusted.contains(&address);
    let mut address = peer.to_canonical();
    if !is_ours(address) {
        return address;
    }
    let lines = headers.get_all(FORWARDED_FOR).into_iter();
    let lines: Vec<&str> = lines.map_while(|line| line.to_str().ok()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(HOPS_MAX) {
        // What does not parse was not written by a proxy of ours: the last good hop answers for it.
        let Some(hop) = parse(hop.trim()) else {
            return address;
        };
        address = hop;
        if !is_ours(address) {
            return address;
        }
    }
    address
}

/// An address, as some proxies write it with a port.
fn parse(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().map(|address: SocketAddr| address.ip());
    let address = text.parse().or_else(|_| with_port()).ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        for (peer, lines, client) in [
            ("203.0.113.9", &["198.51.100.1"][..], "203.0.113.9"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("10.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            assert_eq!(found(peer, lines), client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn the_rightmost_hop_that_is_not_ours_is_the_client_whatever_it_claims() {
        for (lines, client) in [
            (&["1.1.1.1, 198.51.100.1"][..], "198.51.100.1"),
            (&["1.1.1.1, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            (&["1.1.1.1", "198.51.100.1,10.0.0.2"], "198.51.100.1"),
            (&["198.51.100.1, 10.0.0.2", "10.0.0.2"], "198.51.100.1"),
            (&["198.51.100.1, rubbish, 10.0.0.2"], "10.0.0.2"),
            (&["rubbish"], "10.0.0.1"),
            (&["10.0.0.2, 10.0.0.2"], "10.0.0.2"),
        ] {
            assert_eq!(found("10.0.0.1", lines), client, "{lines:?}");
        }
        let endless = "10.0.0.2,".repeat(1_000) + "10.0.0.2";
        assert_eq!(found("10.0.0.1", &[&endless]), "10.0.0.2");
    }

    fn found(peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = line.parse().unwrap_or_else(|e| panic!("{line}: {e}"));
            headers.append(FORWARDED_FOR, value);
        }
        let trusted = [address("10.0.0.1"), address("10.0.0.2")];
        client_address(address(peer), &headers, &trusted).to_string()
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }
}
