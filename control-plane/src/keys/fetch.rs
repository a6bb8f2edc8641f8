//! Fetches a document over HTTPS: bounded in time, size and redirects, from proved servers alone, and never from an address that only
//! means this machine or its cloud. The address that was looked at is the one that is called.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use http::header::{ACCEPT, CACHE_CONTROL, HOST, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::is_forbidden;

/// The longest document.
const LARGEST: usize = 256 * 1024;
/// Redirects that are followed.
const REDIRECTS: usize = 3;
/// How long one connection and its answer may take, all in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// A document.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) body: Bytes,
    /// How long it may be kept, where the server says so.
    pub(super) fresh_for: Option<Duration>,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("{0} is no https address")]
    NotHttps(String),
    #[error("the authorities to prove {0} by are no certificates")]
    Authorities(String),
    #[error("cannot look up {0}")]
    Lookup(String, #[source] io::Error),
    #[error("{0} is at {1}, from where nothing is fetched")]
    Forbidden(String, IpAddr),
    #[error("cannot connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("{0} does not answer as HTTP")]
    Http(String, #[source] hyper::Error),
    #[error("{0} answers {1}")]
    Status(String, StatusCode),
    #[error("what {0} answers is too long or broken off")]
    Body(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0} redirects too often, or to where nothing is fetched from")]
    Redirect(String),
    #[error("{0} does not answer in time")]
    Late(String),
}

/// Fetches what is at an address. Whoever answers must be proved by these authorities (PEM), or else by the public ones.
pub(super) async fn fetch(address: &str, authorities: &str) -> Result<Fetched, FetchError> {
    let tls = trust(address, authorities)?;
    let mut uri = https(address)?;
    for _ in 0..=REDIRECTS {
        let shown = uri.to_string();
        let once = timeout(PATIENCE, once(&uri, &tls)).await;
        match once.map_err(|_| FetchError::Late(shown.clone()))?? {
            Answer::Here(fetched) => return Ok(fetched),
            Answer::Elsewhere(location) => uri = elsewhere(&uri, &location)?,
        }
    }
    Err(FetchError::Redirect(address.to_owned()))
}

enum Answer {
    Here(Fetched),
    Elsewhere(String),
}

async fn once(uri: &Uri, tls: &TlsConnector) -> Result<Answer, FetchError> {
    let shown = uri.to_string();
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);
    let stream = connect(&host, port, tls).await?;
    let http = |error| FetchError::Http(shown.clone(), error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let request = request(uri).ok_or_else(|| FetchError::NotHttps(shown.clone()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        read(&shown, response).await
    };
    tokio::select! {
        answer = exchange => answer,
        // It ends only before the answer has come where it breaks; then the exchange says so better.
        Err(error) = connection => Err(http(error)),
    }
}

fn request(uri: &Uri) -> Option<Request<Empty<Bytes>>> {
    let target = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::get(target)
        .header(HOST, uri.authority()?.as_str())
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")));
    request.body(Empty::new()).ok()
}

async fn read(shown: &str, response: Response<Incoming>) -> Result<Answer, FetchError> {
    let status = response.status();
    if status.is_redirection() {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        return location
            .map(|location| Answer::Elsewhere(location.to_owned()))
            .ok_or_else(|| FetchError::Redirect(shown.to_owned()));
    }
    if status != StatusCode::OK {
        return Err(FetchError::Status(shown.to_owned(), status));
    }
    let fresh_for = response.headers().get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    let body = body.map_err(|error| FetchError::Body(shown.to_owned(), error))?.to_bytes();
    Ok(Answer::Here(Fetched { body, fresh_for }))
}

/// `max-age` (RFC 9111 section 5.2.2.1).
fn max_age(directives: &str) -> Option<Duration> {
    let seconds = directives.split(',').find_map(|directive| directive.trim().strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

/// Connects to the first address of a host that takes the connection. All of them must be such as may be called.
async fn connect(
    host: &str,
    port: u16,
    tls: &TlsConnector,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, FetchError> {
    let addresses = addresses(host).await.map_err(|error| FetchError::Lookup(host.to_owned(), error))?;
    if let Some(forbidden) = addresses.iter().find(|address| is_forbidden(**address)) {
        return Err(FetchError::Forbidden(host.to_owned(), *forbidden));
    }
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| FetchError::Lookup(host.to_owned(), io::ErrorKind::InvalidInput.into()))?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(address, port)).await {
            Ok(stream) => {
                let secured = tls.connect(name, stream).await;
                return secured.map_err(|error| FetchError::Connect(host.to_owned(), error));
            }
            Err(error) => last = error,
        }
    }
    Err(FetchError::Connect(host.to_owned(), last))
}

/// Where a host is; an address is where it says.
pub(crate) async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let resolver = TokioResolver::builder_tokio().and_then(ResolverBuilder::build);
    let found = resolver.map_err(io::Error::other)?.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().collect())
}

fn https(address: &str) -> Result<Uri, FetchError> {
    let uri = address.parse::<Uri>().ok();
    let is_https =
        |uri: &Uri| uri.scheme() == Some(&Scheme::HTTPS) && uri.host().is_some_and(|host| !host.is_empty());
    uri.filter(is_https).ok_or_else(|| FetchError::NotHttps(address.to_owned()))
}

/// Where a redirect leads: to another https address, or another path of the same server.
fn elsewhere(from: &Uri, location: &str) -> Result<Uri, FetchError> {
    let refused = || FetchError::Redirect(from.to_string());
    match (from.authority(), location.strip_prefix('/')) {
        (Some(authority), Some(path)) if !path.starts_with(['/', '\\']) => {
            https(&format!("https://{authority}/{path}")).map_err(|_| refused())
        }
        (_, None) => https(location).map_err(|_| refused()),
        _ => Err(refused()),
    }
}

/// What proves whoever answers at an address: these authorities (PEM), or else the public ones.
pub(crate) fn trust(address: &str, authorities: &str) -> Result<TlsConnector, FetchError> {
    let refused = || FetchError::Authorities(address.to_owned());
    let mut roots = RootCertStore::empty();
    if authorities.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    } else {
        for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
            roots.add(certificate.map_err(|_| refused())?).map_err(|_| refused())?;
        }
    }
    if roots.is_empty() {
        return Err(refused());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let settings = settings.map_err(|_| refused())?.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(settings)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_to_https_only() {
        let from: Uri = "https://id.example/jwks?x=1".parse().unwrap();
        for (location, expected) in [
            ("/other", Some("https://id.example/other")),
            ("https://keys.example/a?b", Some("https://keys.example/a?b")),
            ("http://id.example/", None),
            ("//keys.example/", None),
            ("/\\keys.example/", None),
            ("other", None),
            ("file:///etc/passwd", None),
            ("https://", None),
        ] {
            assert_eq!(
                elsewhere(&from, location).ok().map(|uri| uri.to_string()).as_deref(),
                expected,
                "{location}"
            );
        }
    }

    #[test]
    fn a_server_may_say_how_long_an_answer_is_fresh() {
        assert_eq!(max_age("public, max-age=300"), Some(Duration::from_secs(300)));
        assert_eq!((max_age("no-store"), max_age("max-age=x")), (None, None));
    }

    #[tokio::test]
    async fn what_means_this_machine_is_not_called() {
        for address in [
            "https://127.0.0.1/",
            "https://[::1]:1/",
            "https://169.254.169.254/latest",
            "https://[::ffff:7f00:1]/",
        ] {
            let error = fetch(address, "").await.unwrap_err();
            assert!(matches!(error, FetchError::Forbidden(..)), "{address}: {error}");
        }
        for address in ["http://1.1.1.1/", "ftp://x/", "https:///x", ""] {
            assert!(matches!(fetch(address, "").await.unwrap_err(), FetchError::NotHttps(_)), "{address}");
        }
        assert!(matches!(fetch("https://10.0.0.1/", "-----BEGIN").await, Err(FetchError::Authorities(_))));
    }
}
