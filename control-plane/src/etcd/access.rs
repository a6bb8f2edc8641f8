//! How etcd is reached: its members, TLS, and who we are there.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};

use super::EtcdError;
use crate::io::Stream;

/// Where its keys begin, where nobody says otherwise.
const PREFIX: &str = "weft";
/// For a connection to be there and secured.
const CONNECT: Duration = Duration::from_secs(2);
/// A member that is silent for so long is asked for a sign of life, and given up when there is none.
const SILENCE: Duration = Duration::from_secs(2);

/// `etcd://HOST:PORT,HOST:PORT...[/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdAddress {
    members: Vec<String>,
    prefix: String,
}

/// What the command line says about the way.
#[derive(Debug, Clone)]
pub(crate) struct AccessSettings<'a> {
    pub(crate) address: &'a EtcdAddress,
    pub(crate) ca: Option<&'a Path>,
    pub(crate) identity: Option<(&'a Path, &'a Path)>,
    pub(crate) user: Option<(&'a str, &'a Path)>,
}

/// The way.
pub(crate) struct Access {
    members: Vec<String>,
    prefix: String,
    tls: Option<Arc<ClientConfig>>,
    user: Option<User>,
}

/// As whom we come; the password is read anew each time, since it may be changed.
#[derive(Debug)]
pub(super) struct User {
    name: String,
    password: PathBuf,
}

impl FromStr for EtcdAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("etcd://").ok_or("write etcd://HOST:PORT,...")?;
        let (members, prefix) = rest.split_once('/').unwrap_or((rest, PREFIX));
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if prefix.is_empty() || !prefix.chars().all(is_plain) {
            return Err(format!("{prefix:?} is no prefix: letters, digits and -_./ make one"));
        }
        let member = |member: &str| match member.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
                // As a URI, which is how it is called.
                let is_host = format!("http://{member}").parse::<Uri>().is_ok_and(|uri| uri.host().is_some());
                if is_host { Ok(member.to_owned()) } else { Err(format!("{member:?} is no host")) }
            }
            _ => Err(format!("{member:?} is no HOST:PORT of a member")),
        };
        let members = members.split(',').map(member).collect::<Result<_, _>>()?;
        Ok(Self { members, prefix: prefix.to_owned() })
    }
}

impl EtcdAddress {
    /// `HOST:PORT` of one of its members.
    pub(crate) fn member(&self) -> Option<String> {
        self.members.first().cloned()
    }
}

impl fmt::Display for EtcdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}/{}", self.members.join(","), self.prefix)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("members", &self.members).finish_non_exhaustive()
    }
}

impl Access {
    /// Reads what the settings name.
    pub(crate) fn new(settings: &AccessSettings<'_>) -> Result<Self, EtcdError> {
        let AccessSettings { address, ca, identity, user } = settings;
        let tls = ca.map(|ca| client_config(ca, *identity)).transpose()?;
        let user = user.map(|(name, password)| User { name: name.to_owned(), password: password.to_owned() });
        if let Some(user) = &user {
            user.password()?;
        }
        Ok(Self { members: address.members.clone(), prefix: address.prefix.clone(), tls, user })
    }

    /// Where our keys begin.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn members(&self) -> &[String] {
        &self.members
    }

    pub(super) fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Connects to a member.
    pub(super) async fn connect(&self, member: &str) -> Result<Channel, EtcdError> {
        let failed = |error| EtcdError::Connect(member.to_owned(), error);
        let endpoint = Endpoint::from_shared(format!("http://{member}"))
            .map_err(failed)?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE)
            .keep_alive_while_idle(true);
        let tls = self.tls.clone();
        let connector = tower::service_fn(move |uri: Uri| {
            let tls = tls.clone();
            async move { open(&uri, tls).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await.map_err(failed)
    }
}

impl User {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn password(&self) -> Result<String, EtcdError> {
        let text = read(&self.password)?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

async fn open(uri: &Uri, tls: Option<Arc<ClientConfig>>) -> io::Result<Box<dyn Stream>> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or_default())).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(tls).connect(name, stream).await?))
}

fn client_config(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Arc<ClientConfig>, EtcdError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(EtcdError::Tls)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let settings = settings.map_err(EtcdError::Tls)?.with_root_certificates(roots);
    let mut settings = match identity {
        Some((chain, key)) => {
            let text = read(key)?;
            let pem = PrivateKeyDer::from_pem_slice(text.as_bytes());
            let pem = pem.map_err(|_| EtcdError::Pem(key.to_owned()))?;
            settings.with_client_auth_cert(certificates(chain)?, pem).map_err(EtcdError::Tls)?
        }
        None => settings.with_no_client_auth(),
    };
    settings.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(settings))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, EtcdError> {
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(EtcdError::Pem(path.to_owned())),
    }
}

fn read(path: &Path) -> Result<String, EtcdError> {
    fs::read_to_string(path).map_err(|error| EtcdError::Read(path.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_members_and_perhaps_a_prefix() {
        let address: EtcdAddress = "etcd://a:2379,10.0.0.2:2379,[::1]:2379".parse().unwrap();
        assert_eq!((address.members.len(), address.prefix.as_str()), (3, "weft"));
        assert_eq!(address.to_string(), "etcd://a:2379,10.0.0.2:2379,[::1]:2379/weft");
        let address: EtcdAddress = "etcd://a:2379/meshes/east/".parse().unwrap();
        assert_eq!(address.prefix, "meshes/east");
        for wrong in [
            "etcd://",
            "etcd://a",
            "etcd://a:0",
            "etcd://a:1,",
            "http://a:1",
            "etcd://a:1/",
            "etcd://a:1/ä",
            "etcd://a b:1",
        ] {
            assert!(wrong.parse::<EtcdAddress>().is_err(), "{wrong}");
        }
    }
}
