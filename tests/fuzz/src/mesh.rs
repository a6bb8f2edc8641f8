//! What people write, and what sidecars and the control plane say to each other and to resolvers.

use hickory_proto::op::{Message as DnsMessage, Query};
use hickory_proto::rr::{Name as DnsName, RecordType};
use prost::Message as _;
use weft_core::manifest::{self, SourceFile, to_yaml};
use weft_core::model::{Name, ResourceName};
use weft_proto::{convert, v1};
use weft_proxy::dns::ResolvConf;

use crate::texts;

const KINDS: [v1::Kind; 6] = [
    v1::Kind::Mesh,
    v1::Kind::Trust,
    v1::Kind::Service,
    v1::Kind::Endpoints,
    v1::Kind::Address,
    v1::Kind::Workload,
];

/// Every mistake has a place in the text; what is read is written as something that reads the same.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let namespace: Name = "default".parse().expect("a name");
    let reading = manifest::read(&[SourceFile { name: "a.yaml", text }], &namespace);
    let lines = u32::try_from(text.split(['\n', '\r']).count()).expect("a short text") + 1;
    assert!(
        reading.problems.iter().all(|problem| (1..=lines).contains(&problem.line)),
        "{:?}",
        reading.problems
    );
    for resource in reading.resources {
        let written = to_yaml(&resource.document);
        let again = manifest::read(&[SourceFile { name: "b.yaml", text: &written }], &namespace);
        let found = again.resources.first().map(|again| &again.document);
        assert_eq!(found, Some(&resource.document), "{:?}\n{written}", again.problems);
    }
}

pub fn manifests() -> Vec<Vec<u8>> {
    texts(&[
        "apiVersion: v1\nkind: Service\nmetadata: {name: orders, labels: {a: b}}\nspec:\n  ports:\n  - {port: 80, targetPort: 8080, appProtocol: http}\n  selector: {app: orders}\n",
        "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec:\n  mtls: {mode: Strict}\n  tracing: {sampling: 10%}\n",
        "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: pg-1}\nspec: {address: 10.0.0.9, ports: [{port: 5432}], serviceAccount: pg, weight: 1}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n",
        "a: &x [*x, *x]\nb: |\n  text\n? c\n: !!str 1\n",
        "[[[[[[[[[[[[[[[[{{{{",
        "\"\\u0000\": \u{feff}\n--- %YAML\n",
    ])
}

/// What was understood is encoded as something that is understood the same.
pub fn discovery(bytes: &[u8]) {
    if let Ok(message) = v1::ControlMessage::decode(bytes) {
        assert_eq!(v1::ControlMessage::decode(&*message.encode_to_vec()), Ok(message));
    }
    if let Ok(message) = v1::SidecarMessage::decode(bytes) {
        assert_eq!(v1::SidecarMessage::decode(&*message.encode_to_vec()), Ok(message));
    }
    if let Ok(request) = v1::SignRequest::decode(bytes) {
        assert_eq!(v1::SignRequest::decode(&*request.encode_to_vec()), Ok(request));
    }
}

pub fn messages() -> Vec<Vec<u8>> {
    let held = v1::ResourceName { kind: v1::Kind::Service.into(), name: "default/orders".into() };
    vec![held.encode_to_vec(), b"\x0a\x04\x08\x01\x12\x00".to_vec(), b"\x12\x80\x80\x80\x80\x08".to_vec()]
}

/// A resource of each kind: refused, or the same once more.
pub fn resource(bytes: &[u8]) {
    for kind in KINDS {
        if let Ok(resource) = convert::decode(kind, bytes) {
            let encoded = convert::encode(&resource);
            let again = convert::decode(kind, &encoded).expect("what we encode");
            assert_eq!(convert::encode(&again), encoded);
        }
    }
    if let Ok(name) = v1::ResourceName::decode(bytes) {
        let _ = ResourceName::try_from(&name);
    }
}

pub fn resources() -> Vec<Vec<u8>> {
    let port = v1::ServicePort { port: 80, name: "http".into(), ..Default::default() };
    let service = v1::Service {
        name: "default/orders".into(),
        addresses: vec![vec![10, 0, 0, 1].into()],
        ports: vec![port],
        ..Default::default()
    };
    let endpoint = v1::Endpoint {
        workload: "default/orders-1".into(),
        identity: "spiffe://mesh.local/ns/default/sa/orders".into(),
        addresses: vec![vec![0; 16].into()],
        ports: vec![v1::PortMap { port: 80, target_port: 8080 }],
        weight: 1,
        ..Default::default()
    };
    let endpoints = v1::Endpoints { endpoints: vec![endpoint] };
    let trust = v1::Trust {
        trust_domain: "mesh.local".into(),
        anchors: vec![vec![0x30, 0x82].into()],
        sequence: 7,
        renew_within_ms: 1000,
        revoked: vec!["spiffe://mesh.local/ns/a/sa/b".into(), "5f".into()],
    };
    vec![service.encode_to_vec(), endpoints.encode_to_vec(), trust.encode_to_vec()]
}

/// A question or an answer, as it comes from the app or from a resolver.
pub fn dns(bytes: &[u8]) {
    let Ok(message) = DnsMessage::from_vec(bytes) else { return };
    for query in &message.queries {
        let _ = query.name().to_ascii();
    }
    if let Ok(encoded) = message.to_vec() {
        let again = DnsMessage::from_vec(&encoded).expect("what we encode");
        assert_eq!(again.queries, message.queries);
        let _ = again.truncate().to_vec();
    }
}

pub fn questions() -> Vec<Vec<u8>> {
    let name = DnsName::from_ascii("orders.default.mesh.").expect("a name");
    let mut message = DnsMessage::query();
    message.queries.push(Query::query(name, RecordType::AAAA));
    let plain = message.to_vec().expect("a question");
    // A name that points at itself, and a count without its records.
    let pointing = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01".to_vec();
    let counting = b"\x12\x34\x81\x80\xff\xff\xff\xff\xff\xff\xff\xff\x00".to_vec();
    vec![plain, pointing, counting]
}

/// What the pod's resolver file says.
pub fn resolv_conf(bytes: &[u8]) {
    let _ = ResolvConf::parse(&String::from_utf8_lossy(bytes));
}

pub fn resolv_confs() -> Vec<Vec<u8>> {
    texts(&[
        "nameserver 10.0.0.1\nsearch a.b c\noptions ndots:5 timeout:99999999999\n",
        "nameserver fe80::1%eth0\n;\n# x\nsearch",
    ])
}
