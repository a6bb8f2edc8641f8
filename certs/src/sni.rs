//! The application's port, said in the server name of a connection between two sidecars.
//!
//! All of a pod's ports are reached through its one inbound port, so the ClientHello names the one that is meant:
//! `p8080.weft.internal`. `.internal` is reserved for private use and never resolves.

use rustls::pki_types::{DnsName, ServerName};

const SUFFIX: &str = ".weft.internal";

/// The server name that asks for the application's `port`.
pub fn for_port(port: u16) -> ServerName<'static> {
    #[expect(clippy::expect_used, reason = "a test makes the name of every port")]
    let name =
        DnsName::try_from(format!("p{port}{SUFFIX}")).expect("'p', digits and the suffix are a DNS name");
    ServerName::DnsName(name)
}

/// The port that a server name asks for. Names are compared without regard to case (RFC 4343); anything but the exact
/// form that [`for_port`] makes asks for none.
pub fn port_of(name: &str) -> Option<u16> {
    let (host, suffix) = name.split_at_checked(name.len().checked_sub(SUFFIX.len())?)?;
    if !suffix.eq_ignore_ascii_case(SUFFIX) {
        return None;
    }
    let digits = host.strip_prefix(['p', 'P'])?;
    if digits.starts_with('0') || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_is_read_back() {
        for port in 1..=u16::MAX {
            assert_eq!(port_of(&for_port(port).to_str()), Some(port));
        }
        assert_eq!(for_port(8080).to_str(), "p8080.weft.internal");
    }

    #[test]
    fn other_names_ask_for_no_port() {
        assert_eq!(port_of("P8080.Weft.Internal"), Some(8080));
        for other in [
            "",
            "p",
            "orders",
            ".weft.internal",
            "p.weft.internal",
            "p0.weft.internal",
            "p080.weft.internal",
            "p65536.weft.internal",
            "p+80.weft.internal",
            "p-1.weft.internal",
            "q80.weft.internal",
            "x.p80.weft.internal",
            "p80.weft.internal.",
            "p80.weft.internal.example",
            "p80.weft.externa1",
            "é.weft.internal",
        ] {
            assert_eq!(port_of(other), None, "{other:?}");
        }
    }
}
