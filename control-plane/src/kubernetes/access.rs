//! Where the API server is, how it is proved, and what is shown to it: as a pod finds it, or from a kubeconfig.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio_rustls::TlsConnector;
use weft_core::manifest::{self, SourceFile};

/// What the kubelet puts into every pod.
const POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Why it is not known how to reach the API server.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// Neither in a pod nor told by a file.
    #[error("not in a Kubernetes pod: name a kubeconfig by --kubeconfig or KUBECONFIG")]
    Nowhere,
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// A kubeconfig does not say something, or says what cannot be done.
    #[error("{0}: {1}")]
    Kubeconfig(PathBuf, String),
    /// Something is no certificate or key.
    #[error("what is to prove or be proved to the API server is no PEM")]
    Pem,
    /// The certificates cannot be used.
    #[error("cannot use the certificates for the API server")]
    Tls(#[source] rustls::Error),
}

/// A way to the API server.
pub(crate) struct Access {
    pub(super) host: String,
    pub(super) port: u16,
    /// What goes before every path.
    pub(super) prefix: String,
    security: Security,
    bearer: Bearer,
    /// Where we run, or work.
    pub(crate) namespace: String,
}

enum Security {
    /// `kubectl proxy`, say.
    Plain,
    Tls {
        name: ServerName<'static>,
        anchors: Text,
        identity: Option<(Text, Text)>,
    },
}

/// A text that stands in a file, where it may be another one later, or that was given.
enum Text {
    File(PathBuf),
    Given(String),
}

enum Bearer {
    Nothing,
    Token(Text),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, .. } = self;
        f.debug_struct("Access").field("host", host).field("port", port).finish_non_exhaustive()
    }
}

impl Access {
    /// By the kubeconfig, where one is named; else as a pod is told.
    pub(crate) fn find(kubeconfig: Option<&Path>) -> Result<Self, AccessError> {
        match kubeconfig {
            Some(path) => Self::from_kubeconfig(path),
            None => Self::of_pod(),
        }
    }

    fn of_pod() -> Result<Self, AccessError> {
        let variable = |name| env::var(name).ok().filter(|value: &String| !value.is_empty());
        let host = variable("KUBERNETES_SERVICE_HOST").ok_or(AccessError::Nowhere)?;
        let port = variable("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok()).unwrap_or(443);
        let pod = Path::new(POD);
        let name = ServerName::try_from(host.clone()).map_err(|_| AccessError::Nowhere)?;
        let anchors = Text::File(pod.join("ca.crt"));
        let namespace = read(&pod.join("namespace"))?.trim().to_owned();
        let security = Security::Tls { name, anchors, identity: None };
        let bearer = Bearer::Token(Text::File(pod.join("token")));
        let access = Self { host, port, prefix: String::new(), security, bearer, namespace };
        access.connector()?;
        Ok(access)
    }

    fn from_kubeconfig(path: &Path) -> Result<Self, AccessError> {
        let text = read(path)?;
        let file = SourceFile { name: &path.display().to_string(), text: &text };
        let wrong = |what: &str| AccessError::Kubeconfig(path.to_owned(), what.to_owned());
        let documents = manifest::objects(file)
            .map_err(|problems| wrong(&problems.first().map(ToString::to_string).unwrap_or_default()))?;
        let config = documents.first().ok_or_else(|| wrong("it is empty"))?;
        let current =
            text_at(config, "/current-context").ok_or_else(|| wrong("it has no current-context"))?;
        let context = named(config, "contexts", current, "context")
            .ok_or_else(|| wrong(&format!("there is no context {current:?}")))?;
        let part = |list: &str, key: &str| {
            text_at(context, key).and_then(|name| named(config, list, name, key.trim_start_matches('/')))
        };
        let cluster =
            part("clusters", "/cluster").ok_or_else(|| wrong("the context's cluster is not there"))?;
        let server = text_at(cluster, "/server").and_then(|server| server.parse::<Uri>().ok());
        let server = server.ok_or_else(|| wrong("the cluster's server is no address"))?;
        let host = server.host().ok_or_else(|| wrong("the cluster's server is no address"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        if cluster.get("insecure-skip-tls-verify") == Some(&Value::Bool(true)) {
            return Err(wrong("insecure-skip-tls-verify: a server that is not proved is not called"));
        }
        let user = part("users", "/user").unwrap_or(&Value::Null);
        if user.get("exec").is_some() || user.get("auth-provider").is_some() {
            return Err(wrong("the user is proved by a program; name a token or a certificate in its place"));
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let text = |of: &Value, key: &str| {
            text_or_file(of, key, folder).map_err(|()| wrong(&format!("{key} is no PEM in base64")))
        };
        let https = server.scheme_str() == Some("https");
        let security = if https {
            let name = text_at(cluster, "/tls-server-name").unwrap_or(&host).to_owned();
            let name = ServerName::try_from(name).map_err(|_| wrong("the server's name is none"))?;
            let anchors = text(cluster, "certificate-authority")?
                .ok_or_else(|| wrong("the cluster has no certificate-authority"))?;
            let identity = text(user, "client-certificate")?.zip(text(user, "client-key")?);
            Security::Tls { name, anchors, identity }
        } else {
            Security::Plain
        };
        let token = text_at(user, "/token").map(|token| Text::Given(token.to_owned()));
        let token = token.or_else(|| text_at(user, "/tokenFile").map(|file| Text::File(folder.join(file))));
        let access = Self {
            port: server.port_u16().unwrap_or(if https { 443 } else { 80 }),
            host,
            prefix: server.path().trim_end_matches('/').to_owned(),
            security,
            bearer: token.map_or(Bearer::Nothing, Bearer::Token),
            namespace: text_at(context, "/namespace").unwrap_or("default").to_owned(),
        };
        access.connector()?;
        Ok(access)
    }

    /// How to secure a connection, by what is in force now; none: not at all.
    pub(super) fn connector(&self) -> Result<Option<(TlsConnector, ServerName<'static>)>, AccessError> {
        let Security::Tls { name, anchors, identity } = &self.security else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&anchors.read()?)? {
            roots.add(certificate).map_err(AccessError::Tls)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let settings = settings.map_err(AccessError::Tls)?.with_root_certificates(roots);
        let settings = match identity {
            Some((chain, key)) => {
                let key =
                    PrivateKeyDer::from_pem_slice(key.read()?.as_bytes()).map_err(|_| AccessError::Pem)?;
                settings
                    .with_client_auth_cert(certificates(&chain.read()?)?, key)
                    .map_err(AccessError::Tls)?
            }
            None => settings.with_no_client_auth(),
        };
        Ok(Some((TlsConnector::from(Arc::new(settings)), name.clone())))
    }

    /// What goes into `authorization`; the kubelet replaces a pod's token long before it expires.
    pub(super) fn authorization(&self) -> Result<Option<String>, AccessError> {
        match &self.bearer {
            Bearer::Nothing => Ok(None),
            Bearer::Token(token) => Ok(Some(format!("Bearer {}", token.read()?.trim()))),
        }
    }
}

impl Text {
    fn read(&self) -> Result<String, AccessError> {
        match self {
            Self::File(path) => read(path),
            Self::Given(text) => Ok(text.clone()),
        }
    }
}

fn read(path: &Path) -> Result<String, AccessError> {
    fs::read_to_string(path).map_err(|error| AccessError::Read(path.to_owned(), error))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, AccessError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    certificates.map_err(|_| AccessError::Pem)
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// `contexts: [{name: NAME, context: ..}]` and kin.
fn named<'v>(config: &'v Value, list: &str, name: &str, key: &str) -> Option<&'v Value> {
    let items = config.get(list).and_then(Value::as_array)?;
    items.iter().find(|item| text_at(item, "/name") == Some(name))?.get(key)
}

/// `KEY-data`, in base64, goes before the file that `KEY` names.
fn text_or_file(of: &Value, key: &str, folder: &Path) -> Result<Option<Text>, ()> {
    if let Some(data) = text_at(of, &format!("/{key}-data")) {
        let bytes = STANDARD.decode(data).map_err(|_| ())?;
        return String::from_utf8(bytes).map(|text| Some(Text::Given(text))).map_err(|_| ());
    }
    Ok(text_at(of, &format!("/{key}")).map(|file| Text::File(folder.join(file))))
}
