//! Which virtual address a service gets: the same one every time, as far as others leave it free.

use std::net::IpAddr;

use crate::model::{Cidr, QualifiedName};

/// How many addresses are tried at most.
const MAX_PROBES: u128 = 1 << 20;

/// An address for a service: a hash of its name says where to look first, and how far to step from there.
///
/// None where the range is full. The ends of the range, and in IPv4 those of each block of 256, are left
/// out, because some programs take them for networks and broadcasts; in IPv6 the highest 128 of a subnet are
/// reserved for anycast (RFC 2526) and left out as well.
pub fn allocate(name: &QualifiedName, range: &Cidr, taken: &impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let hash = hash(name);
    let size = 1_u128.checked_shl(range.host_bits().into()).unwrap_or(u128::MAX);
    // An odd step visits every offset of a range that is a power of two.
    let step = hash.rotate_left(64) | 1;
    let mut offset = hash;
    for _ in 0..size.min(MAX_PROBES) {
        let address = range.nth(offset);
        if is_usable(range, address) && !taken(address) {
            return Some(address);
        }
        offset = offset.wrapping_add(step);
    }
    None
}

fn is_usable(range: &Cidr, address: IpAddr) -> bool {
    if address == range.network() || address == range.nth(u128::MAX) {
        return false;
    }
    match address {
        IpAddr::V4(v4) => !matches!(v4.octets(), [_, _, _, 0 | 255]),
        IpAddr::V6(v6) => v6.to_bits() & 0xfdff_ffff_ffff_ff80 != 0xfdff_ffff_ffff_ff80,
    }
}

/// FNV-1a (128 bits) of `namespace/name`. It must never change: addresses follow from it.
fn hash(name: &QualifiedName) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = name.namespace.as_str().bytes().chain([b'/']).chain(name.name.as_str().bytes());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    // The low bits of FNV hardly depend on the high ones; ranges take the low ones.
    hash ^ hash.rotate_left(64)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(text: &str) -> QualifiedName {
        text.parse().unwrap()
    }

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_has_the_same_address_for_ever() {
        let free = |_| false;
        let check = |name_: &str, v4: &str, v6: &str| {
            assert_eq!(allocate(&name(name_), &range("240.64.0.0/12"), &free).unwrap().to_string(), v4);
            assert_eq!(allocate(&name(name_), &range("fd57:eff7::/64"), &free).unwrap().to_string(), v6);
        };
        check("default/orders", "240.74.149.211", "fd57:eff7::b641:2bc5:35da:95d3");
        check("default/web", "240.78.178.33", "fd57:eff7::ec2c:6ca4:199e:b221");
    }

    #[test]
    fn addresses_are_within_the_range_and_each_given_once() {
        for range in [range("240.64.0.0/24"), range("fd57:eff7::/120"), range("10.0.0.0/8")] {
            let mut given = BTreeSet::new();
            for number in 0..120 {
                let address =
                    allocate(&name(&format!("ns/s{number}")), &range, &|a| given.contains(&a)).unwrap();
                assert!(range.contains(address) && address != range.network());
                assert!(given.insert(address));
            }
        }
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let range = range("10.0.0.0/29");
        let mut given = BTreeSet::new();
        while let Some(address) = allocate(&name("a/b"), &range, &|a| given.contains(&a)) {
            given.insert(address);
        }
        let last = given.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(last, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(allocate(&name("a/b"), &"10.0.0.9/32".parse().unwrap(), &|_| false), None);
    }

    #[test]
    fn what_looks_like_a_network_or_a_broadcast_is_left_out() {
        let range = range("10.0.0.0/16");
        let wanted: BTreeSet<IpAddr> =
            (0..=255_u8).flat_map(|block| [0, 255].map(|last| IpAddr::from([10, 0, block, last]))).collect();
        assert_eq!(allocate(&name("a/b"), &range, &|address| !wanted.contains(&address)), None);
    }
}
