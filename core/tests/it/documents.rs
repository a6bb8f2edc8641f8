//! Documents that are right are read as they mean.

use weft_core::manifest::{
    Kind, Reading, Resource, ServiceAddresses, SourceFile, Spec, TargetPort, read, restore, to_yaml,
};
use weft_core::model::{
    AccessLog, AuthorizationDefault, MtlsMode, OutboundMode, Propagation, Protocol, TraceExport,
};

pub(crate) fn read_text(text: &str) -> Reading {
    read(&[SourceFile { name: "f.yaml", text }], &"default".parse().unwrap())
}

/// The resources of a text without mistakes.
pub(crate) fn good(text: &str) -> Vec<Resource> {
    let reading = read_text(text);
    let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new(), "{text}");
    reading.resources
}

#[test]
fn a_service_is_read_with_everything_kubernetes_writes_into_it() {
    let text = "
apiVersion: v1
kind: Service
metadata:
  name: orders
  namespace: shop
  labels: {app: orders}
  annotations: {example.com/note: anything goes here}
  uid: 5d5e
  resourceVersion: '12'
  creationTimestamp: 2024-01-01T00:00:00Z
spec:
  type: NodePort
  clusterIP: 10.96.0.7
  clusterIPs: [10.96.0.7, 'fd00::7']
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  internalTrafficPolicy: Cluster
  sessionAffinity: None
  selector: {app: orders, tier: '1'}
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30080, protocol: TCP, appProtocol: kubernetes.io/h2c}
  - {name: grpc, port: 9090, targetPort: grpc}
status: {loadBalancer: {}}
";
    let [resource] = &good(text)[..] else { panic!() };
    assert_eq!((resource.kind, resource.key().to_string().as_str()), (Kind::Service, "Service shop/orders"));
    assert_eq!((resource.file.as_str(), resource.line), ("f.yaml", 2));
    assert_eq!(resource.labels["app"], "orders");
    let Spec::Service(spec) = &resource.spec else { panic!() };
    let fixed = ["10.96.0.7", "fd00::7"].map(|address| address.parse().unwrap());
    assert_eq!(spec.addresses, ServiceAddresses::Fixed(fixed.into()));
    assert_eq!(spec.selector["tier"], "1");
    let [http, grpc] = &spec.ports[..] else { panic!() };
    assert_eq!(
        (http.port, &http.target, http.protocol),
        (80, &TargetPort::Number(8080), Some(Protocol::Http2))
    );
    assert_eq!((grpc.port, &grpc.target, grpc.protocol), (9090, &TargetPort::Named("grpc".into()), None));
    assert_eq!(resource.references().len(), 1);
}

#[test]
fn app_protocols_mean_what_is_spoken() {
    let check = |text: &str, expected: Protocol| {
        let text = format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: 1, appProtocol: {text}}}]}}}}"
        );
        let Spec::Service(spec) = good(&text).remove(0).spec else { panic!() };
        assert_eq!(spec.ports[0].protocol, Some(expected), "{text}");
    };
    check("http", Protocol::Http);
    check("HTTP", Protocol::Http);
    check("kubernetes.io/ws", Protocol::Http);
    check("http2", Protocol::Http2);
    check("h2c", Protocol::Http2);
    check("kubernetes.io/h2c", Protocol::Http2);
    check("grpc", Protocol::Grpc);
    check("tcp", Protocol::Tcp);
    check("tls", Protocol::Tls);
    check("https", Protocol::Tls);
    check("example.com/own", Protocol::Detect);
}

#[test]
fn services_have_no_address_where_they_are_headless_and_one_of_the_meshs_where_nothing_is_said() {
    let check = |spec: &str, expected: ServiceAddresses| {
        let text = format!("{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {spec}}}");
        let Spec::Service(spec) = good(&text).remove(0).spec else { panic!() };
        assert_eq!(spec.addresses, expected, "{text}");
    };
    check("{ports: [{port: 1}]}", ServiceAddresses::Chosen);
    check("{clusterIP: '', ports: [{port: 1}]}", ServiceAddresses::Chosen);
    check("{clusterIP: null, ports: [{port: 1}]}", ServiceAddresses::Chosen);
    check("{clusterIP: None}", ServiceAddresses::Headless);
    check("{clusterIP: None, clusterIPs: [None]}", ServiceAddresses::Headless);
    check(
        "{clusterIPs: ['10.0.0.1'], ports: [{port: 1}]}",
        ServiceAddresses::Fixed(vec!["10.0.0.1".parse().unwrap()]),
    );
}

#[test]
fn ports_that_are_not_tcp_are_left_alone_with_a_note() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: dns}
spec:
  ports:
  - {name: dns, port: 53, protocol: UDP}
  - {name: dns-tcp, port: 53}
";
    let reading = read_text(text);
    assert_eq!(reading.problems, []);
    assert_eq!(
        reading.notes[0].to_string(),
        "f.yaml:7: spec.ports[0]: the mesh carries TCP; this port is left alone"
    );
    let Spec::Service(spec) = &reading.resources[0].spec else { panic!() };
    assert_eq!(spec.ports.len(), 1);
}

#[test]
fn the_contracts_mesh_config_is_read() {
    let text = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  trustDomain: mesh.local
  mtls: {mode: Permissive}
  outbound: {mode: RegistryOnly}
  authorization: {default: Any}
  tracing: {sampling: 12.5%, propagation: [w3c, b3], export: [{otlp: http://collector:4317}, {zipkin: http://zipkin:9411}]}
  accessLog: {format: json}
";
    let [resource] = &good(text)[..] else { panic!() };
    assert_eq!(resource.namespace, None);
    let Spec::MeshConfig(spec) = &resource.spec else { panic!() };
    assert_eq!(spec.trust_domain.as_ref().unwrap().as_str(), "mesh.local");
    assert_eq!((spec.mtls, spec.outbound), (Some(MtlsMode::Permissive), Some(OutboundMode::RegistryOnly)));
    assert_eq!(spec.authorization, Some(AuthorizationDefault::Any));
    assert_eq!(spec.sampling.unwrap().per_million(), 125_000);
    assert_eq!(spec.propagation.as_deref(), Some(&[Propagation::W3c, Propagation::B3][..]));
    let export =
        [TraceExport::Otlp("http://collector:4317".into()), TraceExport::Zipkin("http://zipkin:9411".into())];
    assert_eq!(spec.export.as_deref(), Some(&export[..]));
    assert_eq!(spec.access_log, Some(AccessLog::Json));
}

#[test]
fn sampling_is_a_ratio_in_every_spelling() {
    for (text, expected) in [
        ("100%", 1_000_000),
        ("20%", 200_000),
        ("0.2", 200_000),
        ("1", 1_000_000),
        ("0", 0),
        ("'0.5'", 500_000),
    ] {
        let text = format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default}}, spec: {{tracing: {{sampling: {text}}}}}}}"
        );
        let Spec::MeshConfig(spec) = good(&text).remove(0).spec else { panic!() };
        assert_eq!(spec.sampling.unwrap().per_million(), expected, "{text}");
    }
}

#[test]
fn the_contracts_workload_is_read() {
    let text = "
apiVersion: weft.mesh/v1alpha1             # an endpoint that does not register itself (a VM, a database)
kind: Workload
metadata: {name: pg-1, labels: {app: pg}}
spec: {address: 10.0.0.9, ports: [{port: 5432}], serviceAccount: pg, zone: a, weight: 1, mtls: false}
";
    let [resource] = &good(text)[..] else { panic!() };
    assert_eq!(resource.key().to_string(), "Workload default/pg-1");
    let Spec::Workload(spec) = &resource.spec else { panic!() };
    assert_eq!((spec.address.to_string().as_str(), spec.ports[0].port), ("10.0.0.9", 5432));
    assert_eq!(spec.service_account.as_ref().unwrap().as_str(), "pg");
    assert_eq!((spec.zone.as_str(), spec.weight, spec.mtls), ("a", 1, false));
}

#[test]
fn namespaces_and_lists_are_read() {
    let text = "
apiVersion: v1
kind: List
metadata: {resourceVersion: ''}
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: shop, labels: {team: a}}
  spec: {finalizers: [kubernetes]}
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}
";
    let resources = good(text);
    let keys: Vec<_> = resources.iter().map(|resource| (resource.key().to_string(), resource.line)).collect();
    assert_eq!(keys, [("Namespace shop".into(), 6), ("Service default/a".into(), 10)]);
}

#[test]
fn kinds_of_kubernetes_are_skipped_with_a_note() {
    let text = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {anything: [at, all]}
---
apiVersion: v1
kind: ConfigMap
data: {a: b}
";
    let reading = read_text(text);
    assert_eq!((reading.resources.len(), reading.problems.len()), (0, 0));
    let notes: Vec<_> = reading.notes.iter().map(ToString::to_string).collect();
    let expected = [
        "f.yaml:2: Deployment web skipped: it says nothing to the mesh",
        "f.yaml:7: ConfigMap skipped: it says nothing to the mesh",
    ];
    assert_eq!(notes, expected);
}

#[test]
fn what_is_said_of_tracing_is_taken_without_a_note() {
    let text = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  tracing:
    propagation: [w3c, b3]
    export: [{otlp: 'http://collector:4317'}]
";
    let reading = read_text(text);
    assert_eq!((reading.resources.len(), reading.problems.len()), (1, 0));
    assert!(reading.notes.is_empty(), "{:?}", reading.notes);
}

#[test]
fn a_document_keeps_its_order_and_gets_its_namespace() {
    let text = "{kind: Service, apiVersion: v1, spec: {ports: [{port: 1}]}, metadata: {name: a}}";
    let resource = good(text).remove(0);
    let expected = "\
kind: Service
apiVersion: v1
spec:
  ports:
  - port: 1
metadata:
  name: a
  namespace: default
";
    assert_eq!(to_yaml(&resource.document), expected);
}

#[test]
fn a_stored_document_is_restored_to_what_it_was() {
    let text =
        "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: n}, spec: {ports: [{port: 1}]}}";
    let resource = good(text).remove(0);
    let restored = restore(&resource.document, &"other".parse().unwrap(), "revision 7").unwrap();
    assert_eq!((restored.key(), &restored.spec), (resource.key(), &resource.spec));
    assert_eq!(restored.file, "revision 7");
    let mut wrong = resource.document;
    wrong["spec"]["ports"] = 5.into();
    let problems = restore(&wrong, &"other".parse().unwrap(), "revision 7").unwrap_err();
    assert_eq!(problems[0].message, "spec.ports: expected a list, found the number 5");
}
