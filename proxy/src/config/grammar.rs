//! The small languages of the settings, one function each. An error says what would be right.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use weft_core::authorize::{NoProbe, OutsideProbe};
use weft_core::model::{Name, Protocol};

use crate::observe::Telemetry;

/// Where a control plane is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ControlPlane {
    /// A host name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for ControlPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "https://[{host}]:{port}")
        } else {
            write!(f, "https://{host}:{port}")
        }
    }
}

/// What this workload serves of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The service.
    pub service: Name,
    /// One port of it; none: every port, as it is.
    pub port: Option<OfferedPort>,
}

/// A service port that this workload serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedPort {
    /// The port callers use.
    pub port: u16,
    /// The port the app listens on.
    pub target_port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// A listener that leads to one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The service's name.
    pub service: Name,
    /// Its namespace; none: the sidecar's own.
    pub namespace: Option<Name>,
    /// The service's port.
    pub port: u16,
}

pub(super) fn control_plane(text: &str) -> Result<ControlPlane, String> {
    let wrong = || format!("{text:?} is not of the form https://HOST:PORT");
    let rest = text.strip_prefix("https://").ok_or_else(wrong)?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
    };
    let name_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || !host.bytes().all(name_ok) {
        return Err(wrong());
    }
    Ok(ControlPlane { host: host.to_owned(), port: port.map_or(Ok(7443), self::port)? })
}

pub(super) fn name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error| format!("{error}"))
}

pub(super) fn offer(text: &str) -> Result<Offer, String> {
    let wrong = || format!("{text:?} is not of the form NAME[:PORT[->APP-PORT][:PROTOCOL]]");
    if !text.contains(':') {
        return Ok(Offer { service: name(text)?, port: None });
    }
    let mut parts = text.split(':');
    let (Some(service), Some(ports), spoken, None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    let (outer, inner) = ports.split_once("->").unwrap_or((ports, ports));
    let protocol = spoken.map_or(Ok(Protocol::Detect), protocol)?;
    let offered = OfferedPort { port: port(outer)?, target_port: port(inner)?, protocol };
    Ok(Offer { service: name(service)?, port: Some(offered) })
}

pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    let wrong = || format!("{text:?} is not of the form ADDRESS:PORT=NAME[.NAMESPACE]:PORT");
    let (listen, target) = text.split_once('=').ok_or_else(wrong)?;
    let (service, service_port) = target.rsplit_once(':').ok_or_else(wrong)?;
    let (service, namespace) = match service.split_once('.') {
        Some((service, namespace)) => (service, Some(name(namespace)?)),
        None => (service, None),
    };
    Ok(Upstream { listen: listener(listen)?, service: name(service)?, namespace, port: port(service_port)? })
}

pub(super) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

pub(super) fn pod_ip(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(ip) if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() => {
            Err(format!("{text} is not an address that others reach us at"))
        }
        Ok(ip) => Ok(ip),
        Err(_) => Err(format!("{text:?} is not an IP address")),
    }
}

pub(super) fn listener(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not of the form ADDRESS:PORT, e.g. 127.0.0.1:4140 or [::]:4140"))
}

/// The probes of a list. A comma is also what a path may have: a new one begins where its kind is said.
pub(super) fn probes(text: &str) -> Vec<String> {
    const KINDS: [&str; 3] = ["http:", "grpc:", "tcp:"];
    let mut probes: Vec<String> = Vec::new();
    for piece in text.split(',').filter(|piece| !piece.trim().is_empty()) {
        match probes.last_mut() {
            Some(last) if !KINDS.iter().any(|kind| piece.trim_start().starts_with(kind)) => {
                last.push(',');
                last.push_str(piece);
            }
            _ => probes.push(piece.trim_start().to_owned()),
        }
    }
    probes
}

pub(super) fn probe(text: &str) -> Result<OutsideProbe, String> {
    text.trim().parse().map_err(|error: NoProbe| error.to_string())
}

pub(super) fn workers(text: &str) -> Result<NonZeroUsize, String> {
    match text.parse::<NonZeroUsize>() {
        Ok(workers) if workers.get() <= 256 => Ok(workers),
        _ => Err(format!("{text:?} is not a number of threads from 1 to 256")),
    }
}

pub(super) fn telemetry(text: &str) -> Result<Telemetry, String> {
    match text {
        "on" => Ok(Telemetry::On),
        "off" => Ok(Telemetry::Off),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

pub(super) fn mark(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match number {
        Ok(mark) if mark != 0 => Ok(mark),
        _ => Err(format!("{text:?} is not a mark, e.g. 0x5745")),
    }
}

/// A Gateway API duration (GEP-2257): up to four of `h`, `m`, `s`, `ms`, each with a whole number.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 250ms, 10s or 1m30s");
    let mut rest = text;
    let mut total = Duration::ZERO;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(wrong)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters).ok_or_else(wrong)?;
        let number: u32 = number.parse().map_err(|_| wrong())?;
        total += match unit {
            "h" => Duration::from_secs(3600) * number,
            "m" => Duration::from_secs(60) * number,
            "s" => Duration::from_secs(1) * number,
            "ms" => Duration::from_millis(1) * number,
            _ => return Err(wrong()),
        };
        rest = after;
        parts += 1;
    }
    if parts == 0 || parts > 4 { Err(wrong()) } else { Ok(total) }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(format!("{text:?} is not a port from 1 to 65535")),
    }
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Ok(match text {
        "http" => Protocol::Http,
        "http2" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" => Protocol::Tcp,
        "tls" => Protocol::Tls,
        _ => return Err(format!("{text:?} is not one of http, http2, grpc, tcp, tls")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: std::fmt::Debug + PartialEq>(
        read: fn(&str) -> Result<T, String>,
        text: &str,
        expected: Option<T>,
    ) {
        assert_eq!(read(text).ok(), expected, "{text:?}");
    }

    #[test]
    fn offers_name_a_service_its_ports_and_protocol() {
        let offer_of = |service: &str, port, target_port, protocol| {
            let port = Some(OfferedPort { port, target_port, protocol });
            Some(Offer { service: service.parse().unwrap(), port })
        };
        check(offer, "orders:8080", offer_of("orders", 8080, 8080, Protocol::Detect));
        check(offer, "orders:80->8080", offer_of("orders", 80, 8080, Protocol::Detect));
        check(offer, "orders:9090->9091:tcp", offer_of("orders", 9090, 9091, Protocol::Tcp));
        check(offer, "a-1:443:tls", offer_of("a-1", 443, 443, Protocol::Tls));
        check(offer, "database", Some(Offer { service: "database".parse().unwrap(), port: None }));
        check(offer, "a:1:http2", offer_of("a", 1, 1, Protocol::Http2));
        for bad in
            ["", "Orders", "orders:", "orders:0", "orders:x", "orders:80->", "orders:->80", "orders:65536"]
        {
            check(offer, bad, None);
        }
        for bad in ["Orders:80", ":80", "orders:80:ftp", "orders:80:tcp:x", "orders:80->1->2", "orders: 80"] {
            check(offer, bad, None);
        }
    }

    #[test]
    fn control_planes_are_https_urls() {
        let at = |host: &str, port| Some(ControlPlane { host: host.into(), port });
        check(control_plane, "https://10.0.0.1:7443", at("10.0.0.1", 7443));
        check(control_plane, "https://cp.weft.svc", at("cp.weft.svc", 7443));
        check(control_plane, "https://cp:1/", at("cp", 1));
        check(control_plane, "https://[::1]:7443", at("::1", 7443));
        check(control_plane, "https://[::1]", at("::1", 7443));
        for bad in [
            "",
            "cp:7443",
            "http://cp:7443",
            "https://",
            "https://cp:x",
            "https://a/b",
            "https://[::1",
            "https://::1",
        ] {
            check(control_plane, bad, None);
        }
        assert_eq!(control_plane("https://[::1]:7443").unwrap().to_string(), "https://[::1]:7443");
    }

    #[test]
    fn upstreams_lead_from_a_listener_to_a_service() {
        let to = |service: &str, namespace: Option<&str>, port| {
            let namespace = namespace.map(|text| text.parse().unwrap());
            Some(Upstream {
                listen: "127.0.0.1:9001".parse().unwrap(),
                service: service.parse().unwrap(),
                namespace,
                port,
            })
        };
        check(upstream, "127.0.0.1:9001=orders:8080", to("orders", None, 8080));
        check(upstream, "127.0.0.1:9001=orders.shop:8080", to("orders", Some("shop"), 8080));
        for bad in ["", "9001=orders:80", "127.0.0.1:9001=orders", "127.0.0.1:9001", "127.0.0.1:9001=:80"] {
            check(upstream, bad, None);
        }
    }

    #[test]
    fn a_probe_s_path_may_have_commas() {
        let read = |text: &str| {
            probes(text).iter().map(|text| probe(text).map(|probe| probe.to_string())).collect::<Vec<_>>()
        };
        let texts = ["http:80:/a,b?c=1,2", "tcp:9000", "grpc:9001", "http:80:/"];
        assert_eq!(read(&texts.join(", ")), texts.map(|text| Ok(text.to_owned())));
        assert_eq!(read(""), []);
        assert!(read("http:80,tcp:9000")[0].as_ref().is_err_and(|error| error.contains("http:PORT:/PATH")));
    }

    #[test]
    fn durations_are_those_of_the_gateway_api() {
        let ms = |ms| Some(Duration::from_millis(ms));
        check(duration, "250ms", ms(250));
        check(duration, "10s", ms(10_000));
        check(duration, "1h30m", ms(5_400_000));
        check(duration, "0s", ms(0));
        for bad in ["", "10", "s", "1d", "-1s", "1.5s", "1s ", "1s1s1s1s1s", "99999999999s"] {
            check(duration, bad, None);
        }
    }

    #[test]
    fn marks_addresses_and_labels_are_checked() {
        check(mark, "0x5745", Some(0x5745));
        check(mark, "22341", Some(22341));
        check(mark, "0", None);
        check(mark, "0xz", None);
        check(telemetry, "off", Some(Telemetry::Off));
        check(telemetry, "no", None);
        check(pod_ip, "10.0.0.2", Some([10, 0, 0, 2].into()));
        check(pod_ip, "127.0.0.1", None);
        check(pod_ip, "::", None);
        check(label, "a=b=c", Some(("a".into(), "b=c".into())));
        check(label, "=b", None);
        check(label, "a", None);
        check(workers, "4", NonZeroUsize::new(4));
        check(workers, "257", None);
    }
}
