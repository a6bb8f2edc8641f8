//! What a name may mean in the mesh.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_core::model::{Name, QualifiedName};

use super::wire;

/// The domain that is the mesh's alone.
const DOMAIN: &str = "mesh";

/// What a name asks for, if the service exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The service.
    pub(super) service: QualifiedName,
    /// What of it.
    pub(super) part: Part,
    /// The label, counted from the left, at which names begin that are ours as a whole.
    pub(super) apex: usize,
}

/// What of a service a name asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// One of its workloads: `WORKLOAD.NAME.NAMESPACE.mesh`.
    Workload(String),
    /// One of its ports: `_PORT._tcp.NAME`.
    Port(String),
    /// What is above its ports: `_tcp.NAME`.
    Protocol,
    /// A port of a protocol that the mesh does not carry.
    Nothing,
}

/// The services that a name may mean: `NAME`, `NAME.NAMESPACE` or `NAME.NAMESPACE.mesh`, as it is or before a search
/// domain; before each, what of it. The likelier come first.
pub(super) fn candidates(labels: &[String], own: Option<&Name>, search: &[Vec<String>]) -> Vec<Candidate> {
    let mut found = Vec::<Candidate>::new();
    let stripped = search.iter().filter_map(|domain| labels.strip_suffix(domain.as_slice()));
    for form in std::iter::once(labels).chain(stripped) {
        let Some(mut candidate) = candidate(form, own) else { continue };
        if is_ours(labels) {
            candidate.apex = labels.len() - 1;
        }
        if !found.iter().any(|known| known.service == candidate.service && known.part == candidate.part) {
            found.push(candidate);
        }
    }
    found
}

/// Whether a name lies in the domain that nobody else has.
pub(super) fn is_ours(labels: &[String]) -> bool {
    labels.last().is_some_and(|last| last == DOMAIN)
}

/// Where in a name, whatever its labels hold, the domain stands that nobody else has.
pub(super) fn ours_at(name: &wire::Name) -> Option<usize> {
    let domain = wire::Name::of([DOMAIN])?;
    let above = name.lowercase().strip_suffix(domain.as_bytes())?.len();
    Some(above)
}

/// The namespace whose names lie below this one, `NAMESPACE.mesh`.
pub(super) fn namespace(labels: &[String]) -> Option<&str> {
    match labels {
        [namespace, domain] if domain == DOMAIN => Some(namespace),
        _ => None,
    }
}

/// The labels of a service's full name.
pub(super) fn full_name(service: &QualifiedName) -> [&str; 3] {
    [service.name.as_str(), service.namespace.as_str(), DOMAIN]
}

fn candidate(labels: &[String], own: Option<&Name>) -> Option<Candidate> {
    let (mut part, rest) = match labels {
        [port, protocol, rest @ ..] if port.starts_with('_') && protocol.starts_with('_') => {
            let part = if protocol == "_tcp" { Part::Port(port.get(1..)?.to_owned()) } else { Part::Nothing };
            (part, rest)
        }
        [protocol, rest @ ..] if protocol == "_tcp" => (Part::Protocol, rest),
        _ => (Part::Whole, labels),
    };
    let (namespace, name) = match rest {
        [name] if name != DOMAIN => (own?.as_str(), name),
        [name, namespace] if namespace != DOMAIN => (namespace.as_str(), name),
        [workload @ .., name, namespace, domain] if domain == DOMAIN => {
            if !workload.is_empty() {
                part = if part == Part::Whole { Part::Workload(workload.join(".")) } else { Part::Nothing };
            }
            (namespace.as_str(), name)
        }
        _ => return None,
    };
    let service = QualifiedName::new(namespace.parse().ok()?, name.parse().ok()?);
    Some(Candidate { service, part, apex: labels.len() - rest.len() })
}

/// The address whose name is asked for: `7.0.64.240.in-addr.arpa`, or 32 digits before `ip6.arpa` (RFC 1035 section
/// 3.5, RFC 3596 section 2.5).
pub(super) fn address(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [bytes @ .., zone, arpa] if zone == "in-addr" && arpa == "arpa" => {
            let bytes: Vec<u8> = bytes.iter().rev().map(|text| text.parse().ok()).collect::<Option<_>>()?;
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into())
        }
        [digits @ .., zone, arpa] if zone == "ip6" && arpa == "arpa" && digits.len() == 32 => {
            if digits.iter().any(|digit| digit.len() != 1) {
                return None;
            }
            let text: String = digits.iter().rev().map(String::as_str).collect();
            Some(Ipv6Addr::from_bits(u128::from_str_radix(&text, 16).ok()?).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Vec<String> {
        text.split('.').filter(|label| !label.is_empty()).map(str::to_owned).collect()
    }

    fn check(text: &str, expected: &[&str]) {
        let own: Name = "default".parse().unwrap();
        let search = ["default.svc.cluster.local", "svc.cluster.local", "example.com"].map(labels);
        let found = candidates(&labels(text), Some(&own), &search);
        let found: Vec<_> = found
            .iter()
            .map(|Candidate { service, part, apex }| match part {
                Part::Whole => format!("{service} from {apex}"),
                part => format!("{part:?} of {service} from {apex}"),
            })
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn names_of_the_mesh_have_three_forms_and_may_carry_a_search_domain() {
        check("orders", &["default/orders from 0"]);
        check("orders.shop", &["shop/orders from 0"]);
        check("orders.shop.mesh", &["shop/orders from 2"]);
        check("orders.example.com", &["default/orders from 0"]);
        check("orders.shop.example.com", &["shop/orders from 0"]);
        check("orders.shop.mesh.example.com", &["shop/orders from 0"]);
        check("orders.default.svc.cluster.local", &["default/orders from 0"]);
        check("orders.shop.svc.cluster.local", &["shop/orders from 0"]);
        check("www.google.com", &[]);
        check("orders.shop.other", &[]);
        check("shop.mesh", &[]);
        check("mesh", &[]);
        check("example.com", &["com/example from 0"]);
        check("", &[]);
        check("svc.cluster.local", &[]);
        check("a_b.shop", &[]);
        assert!(candidates(&labels("orders"), None, &[]).is_empty());
    }

    #[test]
    fn ports_and_workloads_stand_before_the_services_name() {
        check("_http._tcp.orders", &["Port(\"http\") of default/orders from 2"]);
        check("_8080._tcp.orders.shop.mesh", &["Port(\"8080\") of shop/orders from 4"]);
        check("_http._tcp.orders.example.com", &["Port(\"http\") of default/orders from 2"]);
        check("_tcp.orders", &["Protocol of default/orders from 1"]);
        check("_dns._udp.orders", &["Nothing of default/orders from 2"]);
        check("orders-1.orders.shop.mesh", &["Workload(\"orders-1\") of shop/orders from 3"]);
        check("vm.example.orders.shop.mesh", &["Workload(\"vm.example\") of shop/orders from 4"]);
        check("_http._tcp.orders-1.orders.shop.mesh", &["Nothing of shop/orders from 5"]);
        check("orders-1.orders.shop", &[]);
    }

    #[test]
    fn addresses_are_read_backwards() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(address(&labels(text)), expected.map(|text| text.parse().unwrap()), "{text}");
        };
        check("7.0.64.240.in-addr.arpa", Some("240.64.0.7"));
        check("64.240.in-addr.arpa", None);
        check("256.0.64.240.in-addr.arpa", None);
        let digits = "7.".to_owned() + &"0.".repeat(23) + "7.f.f.e.7.5.d.f.ip6.arpa";
        check(&digits, Some("fd57:eff7::7"));
        check(&digits.replace("7.0.0", "7.00.0"), None);
        check("1.ip6.arpa", None);
    }
}
