//! The little of `resolv.conf` that matters here (resolv.conf(5)): who to ask, and what to append.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Nameservers and search domains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvConf {
    /// Whom to ask, in order.
    pub nameservers: Vec<SocketAddr>,
    /// What the pod's programs append to short names; lower case, without dots at the ends.
    pub search: Vec<String>,
}

impl ResolvConf {
    /// Reads the file's text; what is not understood is passed over, as every resolver does.
    pub fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A link-local address may have a zone, which needs an interface index; those are left out.
                    let address = words.next().and_then(|address| address.parse::<IpAddr>().ok());
                    found.nameservers.extend(address.map(|address| SocketAddr::new(address, 53)));
                }
                Some("search" | "domain") => {
                    let domain = |word: &str| word.trim_matches('.').to_lowercase();
                    found.search = words.map(domain).filter(|word| !word.is_empty()).collect();
                }
                _ => {}
            }
        }
        if found.nameservers.is_empty() {
            found.nameservers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_and_the_last_search_list_are_read() {
        let text = "# made by hand\nnameserver 10.0.0.2\nnameserver fe80::1%eth0\nnameserver fd00::53 ; second\n\
                    domain example.com\nsearch Default.svc.Cluster.local. svc.cluster.local\noptions ndots:5\n";
        let found = ResolvConf::parse(text);
        assert_eq!(found.nameservers, ["10.0.0.2:53".parse().unwrap(), "[fd00::53]:53".parse().unwrap()]);
        assert_eq!(found.search, ["default.svc.cluster.local", "svc.cluster.local"]);
    }

    #[test]
    fn without_a_nameserver_it_is_the_local_one() {
        assert_eq!(ResolvConf::parse("").nameservers, ["127.0.0.1:53".parse().unwrap()]);
    }
}
