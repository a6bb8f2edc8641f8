//! Addresses that nothing is fetched from, whoever names them: they mean this machine, its neighbours' link, or what a cloud tells
//! its machines of themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What clouds tell machines of themselves is at these, beside the link-local ones.
const CLOUDS_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];

/// Whether keys may not be fetched from there.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_forbidden_v4(v4),
        IpAddr::V6(v6) => is_forbidden_v6(v6),
    }
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        // "This network", and what protocols use (RFC 6890 section 2.2.2).
        || a == 0
        || (a, b, c) == (192, 0, 0)
        || CLOUDS_V4.contains(&address)
}

fn is_forbidden_v6(address: Ipv6Addr) -> bool {
    let embedded = match address.segments() {
        // IPv4-compatible (deprecated, RFC 4291 section 2.5.5.1), `::` and `::1` among them; NAT64 (RFC 6052), 6to4 (RFC 3056).
        [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            Some((high, low))
        }
        // Of AWS.
        [0xfd00, 0xec2, ..] => return true,
        _ => None,
    };
    let is_inside = embedded.is_some_and(|(high, low)| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        is_forbidden_v4(Ipv4Addr::new(a, b, c, d))
    });
    is_inside
        || address.is_loopback()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_means_this_machine_or_its_cloud_is_forbidden_however_it_is_written() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.0.1",
            "192.0.0.192",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
        ] {
            assert!(is_forbidden(address.parse().unwrap()), "{address}");
        }
        for address in
            ["10.0.0.1", "192.168.1.1", "1.1.1.1", "2606:4700::1111", "fd12::1", "64:ff9b::1.1.1.1"]
        {
            assert!(!is_forbidden(address.parse().unwrap()), "{address}");
        }
    }
}
