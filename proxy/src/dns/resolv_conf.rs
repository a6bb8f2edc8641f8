//! What matters here of `resolv.conf` (resolv.conf(5)): whom to ask, how patiently, and what programs append to names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::time::Duration;

/// Where name servers listen.
const PORT: u16 = 53;

/// How many name servers are asked (`MAXNS`).
const MOST_SERVERS: usize = 3;

/// Nameservers, search domains and options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvConf {
    /// Whom to ask, in order.
    pub nameservers: Vec<SocketAddr>,
    /// What the pod's programs append to short names: labels in lower case.
    pub search: Vec<Vec<String>>,
    /// How long the programs wait for an answer before they ask again.
    pub timeout: Duration,
    /// How often they ask.
    pub attempts: u32,
    /// Whether they begin with another server each time.
    pub rotate: bool,
}

impl Default for ResolvConf {
    fn default() -> Self {
        Self {
            nameservers: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)],
            search: Vec::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
        }
    }
}

impl ResolvConf {
    /// Reads the file's text; what is not understood is passed over, as every resolver does.
    pub fn parse(text: &str) -> Self {
        let mut found = Self { nameservers: Vec::new(), ..Self::default() };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.nameservers.extend(words.next().and_then(server)),
                Some("search" | "domain") => {
                    found.search = words.map(labels).filter(|labels| !labels.is_empty()).collect();
                }
                Some("options") => words.for_each(|option| found.option(option)),
                _ => {}
            }
        }
        found.nameservers.truncate(MOST_SERVERS);
        if found.nameservers.is_empty() {
            found.nameservers = Self::default().nameservers;
        }
        found
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        // The bounds are those of resolv.conf(5).
        let number = |most: u32| value.parse::<u32>().ok().map(|number| number.clamp(1, most));
        match name {
            "timeout" => {
                if let Some(seconds) = number(30) {
                    self.timeout = Duration::from_secs(seconds.into());
                }
            }
            "attempts" => self.attempts = number(5).unwrap_or(self.attempts),
            "rotate" => self.rotate = true,
            _ => {}
        }
    }
}

fn labels(domain: &str) -> Vec<String> {
    domain.to_lowercase().split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect()
}

/// An address; `[ADDRESS]:PORT`, as OpenBSD has it; or a link-local one with its interface, `fe80::1%eth0`.
fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    if let Some((address, port)) = text.strip_prefix('[').and_then(|text| text.split_once("]:")) {
        return Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?));
    }
    // With an interface the standard library can read it, and asks nobody for what begins with an address.
    let (address, _) = text.split_once('%')?;
    let link_local = address.parse::<Ipv6Addr>().is_ok_and(|address| address.is_unicast_link_local());
    if link_local { (text, PORT).to_socket_addrs().ok()?.next() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_the_last_search_list_and_options_are_read() {
        let text = "# made by hand\nnameserver 10.0.0.2\nnameserver fd00::53 ; second\nnameserver [127.0.0.1]:5353\n\
                    nameserver 10.0.0.9\ndomain example.com\nsearch Default.svc.Cluster.local. svc.cluster.local\n\
                    options ndots:5 timeout:2\noptions attempts:9 rotate edns0\n";
        let found = ResolvConf::parse(text);
        let servers = ["10.0.0.2:53", "[fd00::53]:53", "127.0.0.1:5353"].map(|text| text.parse().unwrap());
        assert_eq!(found.nameservers, servers, "no more than three");
        assert_eq!(
            found.search,
            [vec!["default", "svc", "cluster", "local"], vec!["svc", "cluster", "local"]]
        );
        assert_eq!((found.timeout, found.attempts, found.rotate), (Duration::from_secs(2), 5, true));
    }

    #[test]
    fn link_local_servers_have_an_interface() {
        let found = ResolvConf::parse("nameserver fe80::1%lo\n").nameservers;
        assert!(matches!(found[..], [SocketAddr::V6(server)] if server.scope_id() > 0), "{found:?}");
    }

    #[test]
    fn what_makes_no_sense_is_passed_over_and_without_a_nameserver_it_is_the_local_one() {
        for text in [
            "",
            "nameserver",
            "nameserver nonsense",
            "nameserver fe80::1%nowhere",
            "nameserver [::1]",
            "options timeout:x attempts: rotates",
        ] {
            assert_eq!(ResolvConf::parse(text), ResolvConf::default(), "{text:?}");
        }
        assert_eq!(ResolvConf::parse("options timeout:0").timeout, Duration::from_secs(1));
    }
}
