//! Ranges of IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range of addresses, written `10.0.0.0/8`. Its host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not of the form `ADDRESS/LENGTH`.
    #[error("{0:?} is not of the form ADDRESS/LENGTH, such as 10.0.0.0/8")]
    Form(String),
    /// The prefix is longer than the address.
    #[error("the prefix of {0:?} is longer than {1} bits")]
    Prefix(String, u8),
    /// Bits behind the prefix are set, so that it is unclear what is meant.
    #[error("{0:?} has bits set behind its prefix; the range is {1}")]
    HostBits(String, Cidr),
}

impl Cidr {
    /// The first address.
    pub fn network(&self) -> IpAddr {
        self.network
    }

    /// How many leading bits are fixed.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many trailing bits are free.
    pub fn host_bits(&self) -> u8 {
        width(self.network).saturating_sub(self.prefix)
    }

    /// Whether it is a range of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// Whether the address lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && masked(address, self.prefix) == self.network
    }

    /// The address at this offset from the first, offsets beyond the range wrapping around.
    pub fn nth(&self, offset: u128) -> IpAddr {
        let host = offset & host_mask(self.host_bits());
        match self.network {
            IpAddr::V4(v4) => {
                let host = u32::try_from(host).unwrap_or_default();
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | host))
            }
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | host)),
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        if prefix.is_empty() || prefix.len() > 3 || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(form());
        }
        let width = width(address);
        let prefix = prefix.parse().ok().filter(|prefix: &u8| *prefix <= width);
        let prefix = prefix.ok_or_else(|| CidrError::Prefix(text.into(), width))?;
        let range = Self { network: masked(address, prefix), prefix };
        if range.network == address { Ok(range) } else { Err(CidrError::HostBits(text.into(), range)) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn host_mask(bits: u8) -> u128 {
    1_u128.checked_shl(bits.into()).map_or(u128::MAX, |end| end.wrapping_sub(1))
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into())).unwrap_or_default();
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or_default();
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, inside: &[&str], outside: &[&str]) {
        let range: Cidr = text.parse().unwrap();
        assert_eq!(range.to_string(), text);
        for address in inside {
            assert!(range.contains(address.parse().unwrap()), "{address} in {text}");
        }
        for address in outside {
            assert!(!range.contains(address.parse().unwrap()), "{address} not in {text}");
        }
    }

    #[test]
    fn ranges_hold_the_addresses_with_their_prefix() {
        check("240.64.0.0/12", &["240.64.0.0", "240.79.255.255"], &["240.80.0.0", "240.63.255.255", "::"]);
        check("fd57:eff7::/64", &["fd57:eff7::1"], &["fd57:eff7:0:1::", "240.64.0.1"]);
        check("0.0.0.0/0", &["255.255.255.255"], &["::1"]);
        check("::/0", &["ffff::"], &["1.2.3.4"]);
        check("10.0.0.9/32", &["10.0.0.9"], &["10.0.0.8"]);
        check("::1/128", &["::1"], &["::"]);
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.1/8", "a/8", "10.0.0.0/+8"]
        {
            assert!(bad.parse::<Cidr>().is_err(), "{bad:?}");
        }
        let error = "10.0.0.1/8".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().ends_with("the range is 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn offsets_stay_within() {
        let range: Cidr = "10.0.0.0/30".parse().unwrap();
        assert_eq!(range.nth(3).to_string(), "10.0.0.3");
        assert_eq!(range.nth(4).to_string(), "10.0.0.0");
        let all: Cidr = "::/0".parse().unwrap();
        assert_eq!(all.nth(u128::MAX).to_string(), "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
    }
}
