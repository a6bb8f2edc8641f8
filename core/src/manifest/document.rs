//! One document -> one resource: `apiVersion`, `kind`, `metadata`, and the spec of its kind.

use std::collections::BTreeMap;

use super::decode::{Field, Object, Sink};
use super::kind::DocumentKind;
use super::node::{Node, Place, Value};
use super::resource::{Resource, Spec};
use super::route::{self, RouteKind};
use super::value::{is_label_key, is_label_value};
use super::{
    Kind, authorization_policy, external_service, fault_injection, jwt_authentication, mesh_config,
    rate_limit, service, sources, traffic_policy, workload,
};
use crate::model::Name;

/// What the API server adds to metadata, and what comes back from `kubectl get -o yaml`.
const METADATA: [&str; 16] = [
    "name",
    "namespace",
    "labels",
    "annotations",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "selfLink",
    "clusterName",
];

/// Where the parts stand that are checked against other resources.
pub(super) type Places = BTreeMap<String, Place>;

/// Reads a document, or each of a list's; mistakes go to the sink.
pub(super) fn read(node: &Node, default_namespace: &Name, sink: &Sink<'_>, resources: &mut Vec<Resource>) {
    let root = Field::root(node, sink);
    let Value::Map(_) = node.value else {
        let message = format!("expected a resource, found {}", node.value);
        return root.mistake(message, "a resource begins with apiVersion, kind and metadata");
    };
    let (Some(api_version), Some(kind)) = (named(&root, "apiVersion"), named(&root, "kind")) else {
        return;
    };
    match Kind::of_document(api_version, kind) {
        Ok(DocumentKind::Ours(kind)) => resources.extend(resource(kind, node, default_namespace, sink)),
        Ok(DocumentKind::List) => {
            let items = root.object(&["apiVersion", "kind", "metadata", "items"]);
            let items = items.and_then(|list| list.required("items", "a List holds its resources in items"));
            for item in items.and_then(|items| items.list()).unwrap_or_default() {
                read(item.node(), default_namespace, sink, resources);
            }
        }
        Ok(DocumentKind::Kubernetes) => {
            let name = node.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Node::text);
            let name = name.map(|name| format!(" {name}")).unwrap_or_default();
            sink.note(node.place, format!("{kind}{name} skipped: it says nothing to the mesh"));
        }
        Err(unknown) => {
            let place = node.get("kind").map_or(node.place, |kind| kind.place);
            sink.mistake(place, unknown.message, unknown.hint);
        }
    }
}

/// A text that every document has at its top.
fn named<'a>(root: &Field<'a>, key: &str) -> Option<&'a str> {
    let field = root.at(key);
    if field.is_none() {
        root.mistake(format!("{key:?} is missing"), "a resource begins with apiVersion, kind and metadata");
    }
    field?.text()
}

fn resource(kind: Kind, node: &Node, default_namespace: &Name, sink: &Sink<'_>) -> Option<Resource> {
    let root = Field::root(node, sink).object(&["apiVersion", "kind", "metadata", "spec", "status"])?;
    let metadata = root.required("metadata", "write metadata: {name: NAME}");
    let metadata = metadata.and_then(|metadata| metadata.object(&METADATA));
    let name = metadata.as_ref().and_then(|metadata| name(kind, metadata));
    let namespace = metadata.as_ref().and_then(|metadata| namespace(kind, metadata, default_namespace));
    let labels = metadata.as_ref().map(|metadata| labels(metadata)).unwrap_or_default();
    let annotations = metadata.as_ref().map(|metadata| annotations(metadata)).unwrap_or_default();
    let mut places = Places::new();
    let spec = match kind {
        Kind::Namespace => {
            // Kubernetes keeps finalizers there.
            root.field("spec").and_then(|spec| spec.object(&["finalizers"]));
            Some(Spec::Namespace)
        }
        Kind::Service => read_service(&root, metadata.as_ref(), &mut places),
        Kind::MeshConfig => {
            spec(&root).and_then(|spec| mesh_config::read(&spec, &mut places)).map(Spec::MeshConfig)
        }
        Kind::ExternalService => {
            spec(&root).and_then(|spec| external_service::read(&spec, &mut places)).map(Spec::ExternalService)
        }
        Kind::Workload => spec(&root).and_then(|spec| workload::read(&spec, &mut places)),
        Kind::FaultInjection => {
            let own = namespace.as_ref().and_then(Option::as_ref);
            spec(&root)
                .and_then(|spec| fault_injection::read(&spec, own, &mut places))
                .map(Spec::FaultInjection)
        }
        Kind::TrafficPolicy => {
            let own = namespace.as_ref().and_then(Option::as_ref);
            spec(&root)
                .and_then(|spec| traffic_policy::read(&spec, own, &mut places))
                .map(Spec::TrafficPolicy)
        }
        Kind::AuthorizationPolicy => {
            let own = namespace.as_ref().and_then(Option::as_ref);
            spec(&root)
                .and_then(|spec| authorization_policy::read(&spec, own, &mut places))
                .map(Spec::AuthorizationPolicy)
        }
        Kind::RateLimit => {
            let own = namespace.as_ref().and_then(Option::as_ref);
            spec(&root).and_then(|spec| rate_limit::read(&spec, own, &mut places)).map(Spec::RateLimit)
        }
        Kind::JwtAuthentication => {
            let own = namespace.as_ref().and_then(Option::as_ref);
            spec(&root)
                .and_then(|spec| jwt_authentication::read(&spec, own, &mut places))
                .map(Spec::JwtAuthentication)
        }
        Kind::HttpRoute => read_route(RouteKind::Http, &root, namespace.as_ref(), &mut places),
        Kind::GrpcRoute => read_route(RouteKind::Grpc, &root, namespace.as_ref(), &mut places),
        Kind::TlsRoute => read_route(RouteKind::Tls, &root, namespace.as_ref(), &mut places),
        Kind::TcpRoute => read_route(RouteKind::Tcp, &root, namespace.as_ref(), &mut places),
        Kind::ReferenceGrant => {
            spec(&root).and_then(|spec| route::read_grant(&spec)).map(Spec::ReferenceGrant)
        }
    };
    Some(Resource {
        kind,
        document: document(node, namespace.as_ref().and_then(Option::as_ref)),
        namespace: namespace?,
        name: name?,
        labels,
        annotations,
        spec: spec?,
        file: sink.file().to_owned(),
        line: node.place.line,
        places,
    })
}

fn read_route(
    kind: RouteKind,
    root: &Object<'_>,
    namespace: Option<&Option<Name>>,
    places: &mut Places,
) -> Option<Spec> {
    let spec = spec(root)?;
    route::read(kind, &spec, namespace?.as_ref()?, places).map(Spec::Route)
}

fn spec<'a>(root: &Object<'a>) -> Option<Field<'a>> {
    root.required("spec", "every resource of this kind has a spec")
}

fn name(kind: Kind, metadata: &Object<'_>) -> Option<Name> {
    let field = metadata.required("name", "write the resource's name; names are not generated")?;
    let name = field_name(&field)?;
    // These become labels of DNS names.
    if matches!(kind, Kind::Service | Kind::ExternalService | Kind::Namespace) && !is_dns_label(&name) {
        field.mistake(
            format!("{:?} is no DNS label", name.as_str()),
            "leave out dots, and write at most 63 characters",
        );
        return None;
    }
    if kind == Kind::MeshConfig && name.as_str() != "default" {
        field.mistake(
            format!("a MeshConfig must be named \"default\", not {:?}", name.as_str()),
            "write name: default",
        );
        return None;
    }
    Some(name)
}

/// The namespace, which some kinds have none of; the outer none: a mistake.
fn namespace(kind: Kind, metadata: &Object<'_>, default_namespace: &Name) -> Option<Option<Name>> {
    let Some(field) = metadata.field("namespace") else {
        return Some(kind.is_namespaced().then(|| default_namespace.clone()));
    };
    if !kind.is_namespaced() {
        field.mistake(format!("a {kind} belongs to no namespace"), "leave it out");
        return None;
    }
    let name = field_name(&field)?;
    if !is_dns_label(&name) {
        field.mistake(
            format!("{:?} is no DNS label", name.as_str()),
            "leave out dots, and write at most 63 characters",
        );
        return None;
    }
    Some(Some(name))
}

/// A name, with a guess at what was meant where it is none.
pub(super) fn field_name(field: &Field<'_>) -> Option<Name> {
    let guess = field.spelling().unwrap_or_default().to_lowercase().replace(['_', ' '], "-");
    let hint = match guess.parse::<Name>() {
        Ok(_) => format!("did you mean {guess:?}?"),
        Err(_) => "write lower-case letters, digits and inner '-'".to_owned(),
    };
    field.parse(&hint)
}

fn is_dns_label(name: &Name) -> bool {
    name.as_str().len() <= 63 && !name.as_str().contains('.')
}

fn labels(metadata: &Object<'_>) -> BTreeMap<String, String> {
    metadata.field("labels").and_then(|field| selector(&field)).unwrap_or_default()
}

fn read_service(root: &Object<'_>, metadata: Option<&Object<'_>>, places: &mut Places) -> Option<Spec> {
    service::read(&spec(root)?, sources::read(metadata), places).map(Spec::Service)
}

/// Labels, or what labels must be.
pub(super) fn selector(field: &Field<'_>) -> Option<BTreeMap<String, String>> {
    field.texts(|key, value| {
        check_key(key, value);
        if value.spelling().is_some_and(|text| !is_label_value(&text)) {
            let hint =
                "write at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends";
            value.mistake("no label's value", hint);
        }
    })
}

fn annotations(metadata: &Object<'_>) -> BTreeMap<String, String> {
    metadata.field("annotations").and_then(|field| field.texts(check_key)).unwrap_or_default()
}

fn check_key(key: &str, value: &Field<'_>) {
    if !is_label_key(key) {
        value.mistake(
            format!("{key:?} is no key"),
            "write NAME or PREFIX/NAME, with a DNS name as the prefix",
        );
    }
}

/// The document as JSON, with the namespace that it fell into where it named none.
fn document(node: &Node, namespace: Option<&Name>) -> serde_json::Value {
    let mut json = node.to_json();
    if let Some(metadata) = json.get_mut("metadata").and_then(serde_json::Value::as_object_mut)
        && let Some(namespace) = namespace
        && metadata.get("namespace").is_none_or(serde_json::Value::is_null)
    {
        metadata.insert("namespace".to_owned(), namespace.as_str().into());
    }
    json
}
