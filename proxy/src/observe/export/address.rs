//! Where a collector is, by its URL, and connections to it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use http::Uri;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use crate::control::dial;

/// The ports of OTLP over gRPC and over HTTP, and of Zipkin.
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;
const ZIPKIN_PORT: u16 = 9411;

/// What the specifications call the resources.
const TRACES: &str = "/v1/traces";
const SPANS: &str = "/api/v2/spans";

/// A collector.
#[derive(Debug, Clone)]
pub(super) struct Address {
    host: String,
    port: u16,
    /// What is posted to; none: it speaks gRPC.
    pub(super) path: Option<String>,
    tls: Option<Arc<ClientConfig>>,
    mark: Option<u32>,
}

/// From where a collector is called.
#[derive(Debug, Clone, Default)]
pub(super) struct Site {
    /// The mark that interception lets through.
    pub(super) mark: Option<u32>,
    /// Who is trusted to say who a collector is, in DER; none: those that the public trusts.
    pub(super) anchors: Vec<Vec<u8>>,
}

/// Why a URL leads nowhere.
#[derive(Debug, thiserror::Error)]
pub(super) enum AddressError {
    /// It is no URL.
    #[error("{0:?} is no URL")]
    Url(String),
    /// No TLS settings.
    #[error("cannot make TLS settings")]
    Tls(#[from] weft_certs::CertError),
    /// No channel.
    #[error("cannot make a channel")]
    Channel(#[from] tonic::transport::Error),
    /// No certificates.
    #[error("cannot read {0}")]
    Certificate(PathBuf, #[source] io::Error),
}

/// A connection, with TLS or without.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

impl Address {
    /// Of OTLP: over HTTP where the URL has a path or HTTP's port, else over gRPC.
    pub(super) fn otlp(url: &str, site: &Site) -> Result<Self, AddressError> {
        let (uri, path) = parse(url)?;
        let port = uri.port_u16().unwrap_or(GRPC_PORT);
        let path = path.or_else(|| (port == HTTP_PORT).then(|| TRACES.to_owned()));
        Self::new(&uri, port, path, site)
    }

    /// Of OTLP over gRPC, whatever its URL looks like.
    pub(super) fn grpc(url: &str, site: &Site) -> Result<Self, AddressError> {
        let (uri, _) = parse(url)?;
        Self::new(&uri, uri.port_u16().unwrap_or(GRPC_PORT), None, site)
    }

    /// Of what is posted to, at the port that its scheme has where it names none.
    pub(super) fn http(url: &str, site: &Site) -> Result<Self, AddressError> {
        let (uri, path) = parse(url)?;
        let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Self::new(&uri, uri.port_u16().unwrap_or(usual), path.or_else(|| Some("/".to_owned())), site)
    }

    /// Of Zipkin.
    pub(super) fn zipkin(url: &str, site: &Site) -> Result<Self, AddressError> {
        let (uri, path) = parse(url)?;
        let port = uri.port_u16().unwrap_or(ZIPKIN_PORT);
        Self::new(&uri, port, path.or_else(|| Some(SPANS.to_owned())), site)
    }

    fn new(uri: &Uri, port: u16, path: Option<String>, site: &Site) -> Result<Self, AddressError> {
        let protocol: &[u8] = if path.is_some() { b"http/1.1" } else { b"h2" };
        let tls = match uri.scheme_str() {
            Some("https") => Some(weft_certs::outside_client_config(&site.anchors, &[protocol])?),
            _ => None,
        };
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port, path, tls, mark: site.mark })
    }

    /// As `Host` and `:authority` name it.
    pub(super) fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// Connects.
    pub(super) async fn connect(&self) -> io::Result<Box<dyn Connection>> {
        let stream = dial(&self.host, self.port, self.mark).await?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no name"))?;
        Ok(Box::new(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?))
    }
}

/// The URL, and its path where it has one.
fn parse(url: &str) -> Result<(Uri, Option<String>), AddressError> {
    let uri: Uri = url.parse().map_err(|_| AddressError::Url(url.to_owned()))?;
    let path = uri.path_and_query().map(|path| path.as_str().to_owned()).filter(|path| path != "/");
    if uri.host().is_none_or(str::is_empty) {
        return Err(AddressError::Url(url.to_owned()));
    }
    Ok((uri, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_and_the_path_say_what_is_spoken() {
        for (url, authority, path) in [
            ("http://collector:4317", "collector:4317", None),
            ("http://collector", "collector:4317", None),
            ("http://collector:4318", "collector:4318", Some("/v1/traces")),
            ("https://c.example:443/otlp/v1/traces?k=1", "c.example:443", Some("/otlp/v1/traces?k=1")),
            ("http://[fd00::1]:4317/", "[fd00::1]:4317", None),
        ] {
            let address = Address::otlp(url, &Site::default()).unwrap();
            assert_eq!((address.authority().as_str(), address.path.as_deref()), (authority, path), "{url}");
            assert_eq!(address.tls.is_some(), url.starts_with("https"), "{url}");
        }
        let zipkin = Address::zipkin("http://zipkin", &Site::default()).unwrap();
        assert_eq!(
            (zipkin.authority().as_str(), zipkin.path.as_deref()),
            ("zipkin:9411", Some("/api/v2/spans"))
        );
        assert!(Address::otlp("/v1/traces", &Site::default()).is_err());
        let told = Address::http("http://c/own", &Site::default()).unwrap();
        assert_eq!((told.authority().as_str(), told.path.as_deref()), ("c:80", Some("/own")));
        let told = Address::grpc("http://c:4318", &Site::default()).unwrap();
        assert_eq!((told.authority().as_str(), told.path), ("c:4318", None));
    }
}
