//! What the settings' defaults depend on: facts about the machine, found once at the start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::otel::Otel;

/// Facts about the machine that this sidecar runs on.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The host's name.
    pub hostname: String,
    /// Whether IPv6 can be used at all.
    pub ipv6: bool,
    /// How many threads carry traffic.
    pub workers: NonZeroUsize,
    /// Where state may be kept across restarts.
    pub cache_dir: Option<PathBuf>,
    /// What OpenTelemetry's variables say.
    pub otel: Otel,
}

impl Machine {
    /// Looks around.
    pub fn here() -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let cache_dir = Path::new("/run/weft");
        Self {
            hostname: hostname.trim().to_lowercase(),
            ipv6: UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok(),
            workers: weft_runtime::cpu::beside_an_app(),
            cache_dir: is_writable(cache_dir).then(|| cache_dir.to_owned()),
            otel: Otel::read(&|name| std::env::var(name).ok()),
        }
    }

    /// Every address; that of IPv6 takes IPv4 too.
    pub(super) fn any(&self, port: u16) -> SocketAddr {
        if self.ipv6 { (Ipv6Addr::UNSPECIFIED, port).into() } else { (Ipv4Addr::UNSPECIFIED, port).into() }
    }

    /// Loopback, of each family that can be used.
    pub(super) fn loopback(&self, port: u16) -> Vec<SocketAddr> {
        let v6 = self.ipv6.then(|| (Ipv6Addr::LOCALHOST, port).into());
        std::iter::once((Ipv4Addr::LOCALHOST, port).into()).chain(v6).collect()
    }
}

/// The pod's own addresses, those of loopback and of single links excepted.
pub fn own_addresses() -> Vec<IpAddr> {
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found = local_v4(&v4);
    found.extend(local_v6(&v6));
    found.retain(|address| !address.is_loopback());
    found
}

/// Where others reach us: for each family the address that packets to the mesh leave from, else the first of our own.
pub fn reachable_addresses(own: &[IpAddr]) -> Vec<IpAddr> {
    let mesh: [IpAddr; 2] =
        [Ipv4Addr::new(240, 64, 0, 1).into(), Ipv6Addr::new(0xfd57, 0xeff7, 0, 0, 0, 0, 0, 1).into()];
    let of_family = |mesh: &IpAddr| {
        let first = own.iter().find(|address| address.is_ipv4() == mesh.is_ipv4());
        source_towards(*mesh).or_else(|| first.copied())
    };
    mesh.iter().filter_map(of_family).collect()
}

/// The address that the kernel would send from. Connecting a datagram socket sends nothing.
fn source_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr =
        if destination.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((destination, 9)).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified() && !source.is_loopback()).then_some(source)
}

/// Addresses with a `/32 host LOCAL` route, as `/proc/net/fib_trie` lists them below the address.
fn local_v4(fib_trie: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in fib_trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = last
            && !found.contains(&IpAddr::V4(address))
        {
            found.push(IpAddr::V4(address));
        }
    }
    found
}

/// Addresses of global scope (the fourth column is 00), as `/proc/net/if_inet6` lists them.
fn local_v6(if_inet6: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut columns = line.split_whitespace();
        let bits = u128::from_str_radix(columns.next()?, 16).ok()?;
        (columns.nth(2)? == "00").then(|| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    };
    if_inet6.lines().filter_map(address).collect()
}

fn is_writable(dir: &Path) -> bool {
    std::fs::create_dir_all(dir).is_ok() && {
        let probe = dir.join(format!(".probe-{}", std::process::id()));
        std::fs::write(&probe, []).and_then(|()| std::fs::remove_file(&probe)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ipv4_addresses_are_read_from_the_routing_table() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n  +-- 10.1.0.0/16 2\n\
                     |-- 10.1.0.0\n  /16 link UNICAST\n |-- 10.1.0.7\n   /32 host LOCAL\n |-- 10.1.255.255\n\
                     /32 link BROADCAST\n |-- 127.0.0.1\n /32 host LOCAL\n";
        let expected: [IpAddr; 2] = [[10, 1, 0, 7].into(), [127, 0, 0, 1].into()];
        assert_eq!(local_v4(&format!("{table}{table}")), expected);
    }

    #[test]
    fn own_ipv6_addresses_are_those_of_global_scope() {
        let table = "fd000000000000000000000000000007 02 40 00 80     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe8000000000000000163efffe000001 02 40 20 80     eth0\n";
        assert_eq!(local_v6(table), ["fd00::7".parse::<IpAddr>().unwrap()]);
    }
}
