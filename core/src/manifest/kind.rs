//! Which kinds of resources there are, how they are spelt, and what becomes of the others.

use std::fmt;

use super::suggest::nearest;

/// A kind of resource that the mesh takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Namespace`.
    Namespace,
    /// `v1 Service`.
    Service,
    /// `weft.mesh/v1alpha1 MeshConfig`.
    MeshConfig,
    /// `weft.mesh/v1alpha1 Workload`.
    Workload,
    /// `weft.mesh/v1alpha1 ExternalService`.
    ExternalService,
    /// `weft.mesh/v1alpha1 TrafficPolicy`.
    TrafficPolicy,
    /// `weft.mesh/v1alpha1 AuthorizationPolicy`.
    AuthorizationPolicy,
    /// `weft.mesh/v1alpha1 RateLimit`.
    RateLimit,
    /// `weft.mesh/v1alpha1 JwtAuthentication`.
    JwtAuthentication,
    /// `weft.mesh/v1alpha1 FaultInjection`.
    FaultInjection,
    /// `gateway.networking.k8s.io/v1 HTTPRoute`.
    HttpRoute,
    /// `gateway.networking.k8s.io/v1 GRPCRoute`.
    GrpcRoute,
    /// `gateway.networking.k8s.io/v1 TLSRoute`.
    TlsRoute,
    /// `gateway.networking.k8s.io/v1alpha2 TCPRoute`.
    TcpRoute,
    /// `gateway.networking.k8s.io/v1beta1 ReferenceGrant`.
    ReferenceGrant,
}

/// A kind that the mesh does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct UnknownKind {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// What a document is, judged by its `apiVersion` and `kind`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum DocumentKind {
    /// One of ours.
    Ours(Kind),
    /// A `v1 List` of documents.
    List,
    /// A kind of Kubernetes' own that says nothing to the mesh.
    Kubernetes,
}

struct Spelling {
    name: &'static str,
    group: &'static str,
    /// The preferred one first.
    versions: &'static [&'static str],
    plural: &'static str,
    short: &'static [&'static str],
}

const WEFT: &str = "weft.mesh";
const GATEWAY: &str = super::route::GROUP;

/// Kubernetes' own kinds, by API group, which say nothing to the mesh.
const KUBERNETES: &[(&str, &str)] = &[
    (
        "",
        "Binding ConfigMap Endpoints Event LimitRange Node PersistentVolume PersistentVolumeClaim Pod PodTemplate \
         ReplicationController ResourceQuota Secret ServiceAccount",
    ),
    ("apps", "ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet"),
    ("batch", "CronJob Job"),
    ("autoscaling", "HorizontalPodAutoscaler Scale"),
    ("policy", "Eviction PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "ClusterRole ClusterRoleBinding Role RoleBinding"),
    ("networking.k8s.io", "IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR"),
    ("discovery.k8s.io", "EndpointSlice"),
    (
        "storage.k8s.io",
        "CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass",
    ),
    ("storagemigration.k8s.io", "StorageVersionMigration"),
    ("scheduling.k8s.io", "PriorityClass"),
    ("node.k8s.io", "RuntimeClass"),
    ("resource.k8s.io", "DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice"),
    ("coordination.k8s.io", "Lease LeaseCandidate"),
    ("events.k8s.io", "Event"),
    ("certificates.k8s.io", "CertificateSigningRequest ClusterTrustBundle PodCertificateRequest"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apiregistration.k8s.io", "APIService"),
    (
        "admissionregistration.k8s.io",
        "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration \
         ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration",
    ),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema PriorityLevelConfiguration"),
    ("authentication.k8s.io", "SelfSubjectReview TokenRequest TokenReview"),
    (
        "authorization.k8s.io",
        "LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview",
    ),
];

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 15] = [
        Self::ExternalService,
        Self::Namespace,
        Self::Service,
        Self::MeshConfig,
        Self::Workload,
        Self::TrafficPolicy,
        Self::AuthorizationPolicy,
        Self::RateLimit,
        Self::JwtAuthentication,
        Self::FaultInjection,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TlsRoute,
        Self::TcpRoute,
        Self::ReferenceGrant,
    ];

    /// The kinds that are routes.
    pub const ROUTES: [Self; 4] = [Self::HttpRoute, Self::GrpcRoute, Self::TlsRoute, Self::TcpRoute];

    /// As documents spell it: `Service`.
    pub fn as_str(self) -> &'static str {
        self.spelling().name
    }

    /// Lower-case and many, as `kubectl get` spells it: `services`.
    pub fn plural(self) -> &'static str {
        self.spelling().plural
    }

    /// The API group; empty: the core's.
    pub fn group(self) -> &'static str {
        self.spelling().group
    }

    /// The versions that are read, the preferred one first.
    pub fn versions(self) -> &'static [&'static str] {
        self.spelling().versions
    }

    /// As in `apiVersion`: `v1`, `weft.mesh/v1alpha1`.
    pub fn api_version(self) -> String {
        let Spelling { group, versions, .. } = self.spelling();
        let version = versions.first().copied().unwrap_or_default();
        if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
    }

    /// Whether its resources belong to a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::MeshConfig)
    }

    /// Reads a kind as people type it: any case, one or many, short, with or without its group.
    pub fn from_user(text: &str) -> Result<Self, UnknownKind> {
        let typed = text.to_lowercase();
        let (word, group) =
            typed.split_once('.').map_or((typed.as_str(), None), |(word, group)| (word, Some(group)));
        let is_word =
            |s: &Spelling| s.name.to_lowercase() == word || s.plural == word || s.short.contains(&word);
        let is_group = |s: &Spelling| {
            group.is_none_or(|group| {
                let behind = |version: &&str| {
                    let rest = group.strip_prefix(*version)?;
                    Some(rest.strip_prefix('.').unwrap_or(rest) == s.group)
                };
                group == s.group || s.versions.iter().any(|version| behind(version) == Some(true))
            })
        };
        let is_meant = |kind: &Self| is_word(&kind.spelling()) && is_group(&kind.spelling());
        if let Some(found) = Self::ALL.into_iter().find(is_meant) {
            return Ok(found);
        }
        let words = Self::ALL.into_iter().flat_map(|kind| [kind.as_str(), kind.plural()]);
        let hint = nearest(word, words).map_or_else(|| format!("kinds are {}", names()), did_you_mean);
        Err(UnknownKind { message: format!("there is no kind {text:?}"), hint })
    }

    /// Judges a document by its `apiVersion` and `kind`.
    pub(super) fn of_document(api_version: &str, kind: &str) -> Result<DocumentKind, UnknownKind> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        if let Some(ours) = Self::ALL.into_iter().find(|ours| ours.as_str() == kind) {
            let spelling = ours.spelling();
            if spelling.group == group && spelling.versions.contains(&version) {
                return Ok(DocumentKind::Ours(ours));
            }
            return Err(UnknownKind {
                message: format!("{kind} is not of apiVersion {api_version}"),
                hint: format!("write apiVersion: {}", ours.api_version()),
            });
        }
        if (api_version, kind) == ("v1", "List") {
            return Ok(DocumentKind::List);
        }
        let mut theirs =
            KUBERNETES.iter().filter(|(theirs, _)| *theirs == group).flat_map(|(_, kinds)| kinds.split(' '));
        if theirs.clone().any(|theirs| theirs == kind) {
            return Ok(DocumentKind::Kubernetes);
        }
        let known = Self::ALL.into_iter().map(Self::as_str);
        let near = nearest(kind, known.chain(theirs.by_ref()));
        let hint = near.map_or_else(|| format!("kinds are {}", names()), did_you_mean);
        Err(UnknownKind { message: format!("unknown kind {kind} of apiVersion {api_version}"), hint })
    }

    /// Everything that tells a kind from others stands here, once.
    const fn spelling(self) -> Spelling {
        let (name, group, versions, plural, short): (_, _, &[&str], _, &[&str]) = match self {
            Self::Namespace => ("Namespace", "", &["v1"], "namespaces", &["ns"]),
            Self::Service => ("Service", "", &["v1"], "services", &["svc"]),
            Self::MeshConfig => ("MeshConfig", WEFT, &["v1alpha1"], "meshconfigs", &[]),
            Self::Workload => ("Workload", WEFT, &["v1alpha1"], "workloads", &[]),
            Self::ExternalService => ("ExternalService", WEFT, &["v1alpha1"], "externalservices", &[]),
            Self::TrafficPolicy => ("TrafficPolicy", WEFT, &["v1alpha1"], "trafficpolicies", &[]),
            Self::AuthorizationPolicy => {
                ("AuthorizationPolicy", WEFT, &["v1alpha1"], "authorizationpolicies", &[])
            }
            Self::RateLimit => ("RateLimit", WEFT, &["v1alpha1"], "ratelimits", &[]),
            Self::JwtAuthentication => {
                ("JwtAuthentication", WEFT, &["v1alpha1"], "jwtauthentications", &["jwt"])
            }
            Self::HttpRoute => ("HTTPRoute", GATEWAY, &["v1"], "httproutes", &[]),
            Self::GrpcRoute => ("GRPCRoute", GATEWAY, &["v1"], "grpcroutes", &[]),
            Self::TlsRoute => ("TLSRoute", GATEWAY, &["v1", "v1alpha2", "v1alpha3"], "tlsroutes", &[]),
            Self::TcpRoute => ("TCPRoute", GATEWAY, &["v1alpha2"], "tcproutes", &[]),
            Self::ReferenceGrant => {
                ("ReferenceGrant", GATEWAY, &["v1beta1", "v1"], "referencegrants", &["refgrant"])
            }
            Self::FaultInjection => ("FaultInjection", WEFT, &["v1alpha1"], "faultinjections", &[]),
        };
        Spelling { name, group, versions, plural, short }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

fn did_you_mean(near: &str) -> String {
    format!("did you mean {near}?")
}

fn names() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_spelt_as_kubectl_spells_them() {
        for text in
            ["svc", "service", "services", "Service", "SERVICES", "services.v1", "services.", "service.v1."]
        {
            assert_eq!(Kind::from_user(text), Ok(Kind::Service), "{text}");
        }
        for text in ["Workload", "workloads", "workloads.weft.mesh", "workload.v1alpha1.weft.mesh"] {
            assert_eq!(Kind::from_user(text), Ok(Kind::Workload), "{text}");
        }
        assert_eq!(Kind::from_user("ns"), Ok(Kind::Namespace));
        assert_eq!(Kind::from_user("meshconfig"), Ok(Kind::MeshConfig));
        for text in ["", "services.apps", "workloads.v1", "pods"] {
            assert!(Kind::from_user(text).is_err(), "{text}");
        }
        assert_eq!(Kind::from_user("serivces").unwrap_err().hint, "did you mean services?");
        for text in ["httproute", "HTTPRoutes", "httproutes.v1.gateway.networking.k8s.io"] {
            assert_eq!(Kind::from_user(text), Ok(Kind::HttpRoute), "{text}");
        }
        for text in ["tlsroutes.v1alpha3.gateway.networking.k8s.io", "TLSRoute"] {
            assert_eq!(Kind::from_user(text), Ok(Kind::TlsRoute), "{text}");
        }
    }

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_user(kind.plural()), Ok(kind));
            let document = Kind::of_document(&kind.api_version(), kind.as_str());
            assert_eq!(document, Ok(DocumentKind::Ours(kind)));
        }
    }

    fn check(api_version: &str, kind: &str, expected: Result<DocumentKind, &str>) {
        let found = Kind::of_document(api_version, kind).map_err(|error| format!("{error}; {}", error.hint));
        assert_eq!(found, expected.map_err(str::to_owned), "{api_version} {kind}");
    }

    #[test]
    fn documents_are_ours_or_skipped_or_refused() {
        check("v1", "Service", Ok(DocumentKind::Ours(Kind::Service)));
        check("weft.mesh/v1alpha1", "Workload", Ok(DocumentKind::Ours(Kind::Workload)));
        check("v1", "List", Ok(DocumentKind::List));
        check("v1", "ConfigMap", Ok(DocumentKind::Kubernetes));
        check("apps/v1", "Deployment", Ok(DocumentKind::Kubernetes));
        check("batch/v1beta1", "Job", Ok(DocumentKind::Kubernetes));
        check("v1", "Servce", Err("unknown kind Servce of apiVersion v1; did you mean Service?"));
        check(
            "apps/v1",
            "Deploymnet",
            Err("unknown kind Deploymnet of apiVersion apps/v1; did you mean Deployment?"),
        );
        check(
            "v1",
            "MeshConfig",
            Err("MeshConfig is not of apiVersion v1; write apiVersion: weft.mesh/v1alpha1"),
        );
        assert!(Kind::of_document("example.com/v1", "Thing").is_err());
    }
}
