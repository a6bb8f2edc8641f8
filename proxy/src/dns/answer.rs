//! Which names are the mesh's, and what they resolve to.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use weft_core::model::{Name, QualifiedName};

use crate::state::{Discovery, KnownService};

/// How long an answer holds, in seconds: services come and go.
const TTL: u32 = 5;

/// The domain that is the mesh's alone.
const DOMAIN: &str = "mesh";

/// What becomes of a question.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is answered here.
    Answer(Box<Message>),
    /// It is not ours.
    Forward,
}

/// Answers a question about a name of the mesh, looking it up where it is not known yet.
pub(super) async fn decide(
    question: &Message,
    discovery: &Discovery,
    own: Option<&Name>,
    search: &[String],
) -> Verdict {
    let [query] = question.queries.as_slice() else { return Verdict::Forward };
    if query.query_class() != DNSClass::IN {
        return Verdict::Forward;
    }
    let text = query.name().to_ascii().trim_end_matches('.').to_lowercase();
    let mut in_doubt = false;
    for name in candidates(&text, own, search) {
        if let Some(service) = discovery.lookup_service(&name).await {
            return Verdict::Answer(Box::new(answer(question, query, &service)));
        }
        in_doubt |= discovery.connected() && !discovery.snapshot().settles_service(&name);
    }
    // A name of one label is no one else's. While the control plane is slow to answer, the app had better ask again.
    if in_doubt && !text.contains('.') {
        return Verdict::Answer(Box::new(failure(question, ResponseCode::ServFail)));
    }
    // Nobody else is to be asked about, or told of, names in our own domain.
    if text == DOMAIN || text.ends_with(&format!(".{DOMAIN}")) {
        return Verdict::Answer(Box::new(failure(question, ResponseCode::NXDomain)));
    }
    Verdict::Forward
}

/// The same question with nothing but a code.
pub(super) fn failure(question: &Message, code: ResponseCode) -> Message {
    let mut reply = reply_to(question);
    reply.metadata.response_code = code;
    reply
}

/// The services that a name may mean: `NAME`, `NAME.NAMESPACE` or `NAME.NAMESPACE.mesh`, as it is or before a search
/// domain.
fn candidates(text: &str, own: Option<&Name>, search: &[String]) -> Vec<QualifiedName> {
    let mut found = Vec::new();
    let stripped = search.iter().filter_map(|domain| text.strip_suffix(domain.as_str())?.strip_suffix('.'));
    for form in std::iter::once(text).chain(stripped) {
        let mut labels = form.split('.');
        let name = match (labels.next(), labels.next(), labels.next(), labels.next()) {
            (Some(name), None, ..) => own.and_then(|own| qualified(own.as_str(), name)),
            (Some(name), Some(namespace), None | Some(DOMAIN), None) => qualified(namespace, name),
            _ => None,
        };
        if let Some(name) = name
            && !found.contains(&name)
        {
            found.push(name);
        }
    }
    found
}

fn qualified(namespace: &str, name: &str) -> Option<QualifiedName> {
    Some(QualifiedName::new(namespace.parse().ok()?, name.parse().ok()?))
}

fn answer(question: &Message, query: &Query, service: &Arc<KnownService>) -> Message {
    let mut reply = reply_to(question);
    let wants = |address: &IpAddr| match query.query_type() {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    let own = service.service.addresses.iter();
    let mut addresses: Vec<IpAddr> = own.copied().filter(wants).collect();
    if service.service.addresses.is_empty() {
        // A headless service: its workloads, in another order each time, so that clients which take the first spread.
        let endpoints = service.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        addresses = endpoints.copied().filter(wants).collect();
        fastrand::shuffle(&mut addresses);
    }
    for address in addresses {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        reply.add_answer(Record::from_rdata(query.name().clone(), TTL, data));
    }
    reply
}

fn reply_to(question: &Message) -> Message {
    let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
    reply.metadata.recursion_desired = question.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.add_queries(question.queries.iter().cloned());
    reply
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use weft_core::model::{Endpoint, Service};

    use super::*;
    use crate::state::{self, Snapshot};

    fn check(text: &str, expected: &[&str]) {
        let own: Name = "default".parse().unwrap();
        let search = ["default.svc.cluster.local".to_owned(), "example.com".to_owned()];
        let found: Vec<_> = candidates(text, Some(&own), &search).iter().map(ToString::to_string).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn names_of_the_mesh_have_three_forms_and_may_carry_a_search_domain() {
        check("orders", &["default/orders"]);
        check("orders.shop", &["shop/orders"]);
        check("orders.shop.mesh", &["shop/orders"]);
        check("orders.example.com", &["default/orders"]);
        check("orders.shop.example.com", &["shop/orders"]);
        check("orders.default.svc.cluster.local", &["default/orders"]);
        check("www.google.com", &[]);
        check("orders.shop.other", &[]);
        check("a.b.c.mesh", &[]);
        check("example.com", &["com/example"]);
        check("", &[]);
        check("_tcp.orders", &[]);
        assert!(candidates("orders", None, &[]).is_empty());
    }

    fn known(name: &str, addresses: &[&str], endpoints: &[&str]) -> (QualifiedName, Arc<KnownService>) {
        let name: QualifiedName = name.parse().unwrap();
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let endpoint = Endpoint {
            workload: name.clone(),
            addresses: parse(endpoints),
            identity: None,
            inbound_port: None,
            zone: String::new(),
            weight: 1,
            ports: Vec::new(),
        };
        let service = Service {
            name: name.clone(),
            addresses: parse(addresses),
            ports: Vec::new(),
            traffic: Default::default(),
        };
        let endpoints = Arc::from([Arc::new(endpoint)]);
        (name, Arc::new(KnownService { service, endpoints, generation: 1 }))
    }

    async fn ask(name: &str, kind: RecordType) -> Option<(ResponseCode, Vec<String>)> {
        let (discovery, publisher, _asked) = state::channel(Vec::new());
        publisher.publish(Snapshot {
            services: HashMap::from([
                known("default/orders", &["240.64.0.7", "fd57:eff7::7"], &["10.0.0.1"]),
                known("default/four", &["240.64.0.8"], &[]),
                known("default/headless", &[], &["10.0.0.1", "fd00::1"]),
            ]),
            ..Snapshot::default()
        });
        let mut question = Message::query();
        question.add_query(Query::query(name.parse().unwrap(), kind));
        let own = "default".parse().unwrap();
        match decide(&question, &discovery, Some(&own), &[]).await {
            Verdict::Forward => None,
            Verdict::Answer(reply) => {
                assert_eq!(reply.metadata.id, question.metadata.id);
                let answers = reply.answers.iter().map(|record| record.data.to_string()).collect();
                Some((reply.metadata.response_code, answers))
            }
        }
    }

    #[tokio::test]
    async fn services_resolve_to_their_addresses_of_the_family_asked_for() {
        let yes = |answers: &[&str]| {
            Some((ResponseCode::NoError, answers.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()))
        };
        assert_eq!(ask("orders.", RecordType::A).await, yes(&["240.64.0.7"]));
        assert_eq!(ask("ORDERS.Default.", RecordType::AAAA).await, yes(&["fd57:eff7::7"]));
        assert_eq!(ask("four.default.mesh.", RecordType::AAAA).await, yes(&[]));
        assert_eq!(ask("orders.", RecordType::MX).await, yes(&[]));
        assert_eq!(ask("headless.", RecordType::A).await, yes(&["10.0.0.1"]));
        assert_eq!(ask("headless.", RecordType::AAAA).await, yes(&["fd00::1"]));
    }

    #[tokio::test]
    async fn other_names_are_passed_on_but_not_those_of_the_mesh() {
        assert_eq!(ask("www.example.org.", RecordType::A).await, None);
        assert_eq!(ask("nothing.", RecordType::A).await, None);
        assert_eq!(ask("no.such.mesh.", RecordType::A).await, Some((ResponseCode::NXDomain, Vec::new())));
        assert_eq!(ask("a.b.c.mesh.", RecordType::A).await, Some((ResponseCode::NXDomain, Vec::new())));
    }
}
