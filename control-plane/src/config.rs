//! The control plane's settings.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use weft_core::inject;
use weft_core::manifest::parse_duration;
use weft_core::model::{Cidr, TrustDomain};
use weft_runtime::logs::LogFormat;

use crate::ca::TokenSource;
use crate::etcd::{AccessSettings, EtcdAddress, EtcdError};

/// The shortest life that X.509's whole seconds allow.
const SHORTEST: Duration = Duration::from_secs(1);
/// The issuing certificate itself lives a year.
const LONGEST: Duration = Duration::from_hours(365 * 24);

/// Discovery, policy, certificate authority, trace store and dashboard of a Weft mesh.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "weft-control-plane",
    version,
    about,
    after_help = "Examples:\n  weft-control-plane\n  weft-control-plane --config-dir ./mesh --data-dir /var/lib/weft\n  weft-control-plane --grpc-addr 127.0.0.1:7443 --certificate-ttl 1h --log-format json"
)]
pub struct Config {
    /// A folder of YAML, watched; each document a resource.
    #[arg(long, value_name = "DIR", env = "WEFT_CONFIG_DIR")]
    pub config_dir: Option<PathBuf>,

    /// Root and issuing keys, revisions, traces; ca.pem and admin.token are written here.
    #[arg(long, value_name = "DIR", env = "WEFT_DATA_DIR", default_value = "./weft-data")]
    pub data_dir: PathBuf,

    /// Where state is kept, and the way there.
    #[command(flatten)]
    pub store: StoreOptions,

    /// Where sidecars and the weft command call (TLS).
    #[arg(long, value_name = "ADDR", default_value_t = any(7443))]
    pub grpc_addr: SocketAddr,

    /// Dashboard, /live, /ready and /metrics.
    #[arg(long, value_name = "ADDR", default_value_t = any(7080))]
    pub http_addr: SocketAddr,

    /// OpenTelemetry traces in (gRPC, plaintext).
    #[arg(long, value_name = "ADDR", default_value_t = any(4317))]
    pub otlp_addr: SocketAddr,

    /// Where other control planes over the same store reach our gRPC port [default: the address that we reach the store from]
    #[arg(long, value_name = "ADDR", env = "WEFT_ADVERTISE_ADDR")]
    pub advertise_addr: Option<SocketAddr>,

    /// How long those may take to answer, before what only they know is said to be missing.
    #[arg(long, value_name = "DURATION", default_value = "200ms", value_parser = patience)]
    pub others_timeout: Duration,

    /// The authority behind every identity of this mesh.
    #[arg(long, value_name = "DOMAIN", default_value = "mesh.local")]
    pub trust_domain: TrustDomain,

    /// Where the virtual addresses of services come from, by family.
    #[arg(long, value_name = "V4,V6", default_value = "240.64.0.0/12,fd57:eff7::/64", value_delimiter = ',', value_parser = service_cidr)]
    pub service_cidr: Vec<Cidr>,

    /// The issuing certificate, where somebody else keeps it: PEM, with those between it and a root after it; watched.
    #[arg(long, value_name = "FILE", requires_all = ["ca_key", "ca_roots"])]
    pub ca_cert: Option<PathBuf>,

    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_key: Option<PathBuf>,

    /// The roots that everybody is to trust; each names the trust domain.
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub ca_roots: Option<PathBuf>,

    /// Seals the keys in the data directory with the passphrase in this file.
    #[arg(long, value_name = "FILE", env = "WEFT_CA_PASSPHRASE_FILE", hide_env_values = true)]
    pub ca_passphrase_file: Option<PathBuf>,

    /// Keeps the keys in the clear again, after opening them with the passphrase.
    #[arg(long, requires = "ca_passphrase_file")]
    pub ca_unseal: bool,

    /// Takes Kubernetes service-account tokens to join by: issuer=URL[,jwks=FILE][,ca=FILE][,audience=weft], or
    /// review[,api=URL][,ca=FILE][,token=FILE][,audience=weft] to ask the API server, by default this pod's own.
    #[arg(long, value_name = "SOURCE")]
    pub kubernetes_tokens: Option<TokenSource>,

    /// How long a sidecar's certificate lives: 1s to 8760h.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = ttl)]
    pub certificate_ttl: Duration,

    /// How long a sidecar may take to answer what it is told, before its stream is ended; it comes back.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = patience)]
    pub ack_timeout: Duration,

    /// How log lines look: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged, in RUST_LOG syntax.
    #[arg(long, value_name = "LEVEL", env = "RUST_LOG", default_value = "info")]
    pub log_level: String,

    /// Other sources of workloads: kubernetes; repeatable.
    #[arg(long, value_name = "SOURCE", value_parser = discovery)]
    pub discovery: Vec<Discovery>,

    /// Whom to ask where workloads are that are known by a DNS name, as in 127.0.0.1:8600; repeatable [default: resolv.conf]
    #[arg(long, value_name = "ADDR")]
    pub dns_server: Vec<SocketAddr>,

    /// The way to the Kubernetes API server, where not in a pod.
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", hide_env_values = true)]
    pub kubeconfig: Option<PathBuf>,

    /// The Kubernetes injector's webhook (TLS), usually [::]:7444; none unless it is given.
    #[arg(long, value_name = "ADDR")]
    pub webhook_addr: Option<SocketAddr>,

    /// How the injector equips pods, as weft inject --set has it: image.registry, image.tag, controlPlane, sidecar; repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = injection)]
    pub inject: Vec<(String, String)>,
}

/// A source of workloads besides files and the sidecars themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// The API server of the cluster that we run in.
    Kubernetes,
}

/// Where state is kept, and the way there.
#[derive(Debug, Clone, clap::Args)]
pub struct StoreOptions {
    /// Where state is kept: embedded (in the data directory), or, by any number of control planes, etcd://HOST:PORT,...[/PREFIX] or
    /// kubernetes (in Secrets of our namespace; the cluster is then read as with --discovery kubernetes).
    #[arg(long, value_name = "STORE", default_value = "embedded", value_parser = store)]
    pub store: StoreAddress,

    /// Who vouches for etcd (TLS), as etcdctl's --cacert; without it etcd is spoken to in the clear.
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CACERT", hide_env_values = true)]
    pub etcd_ca: Option<PathBuf>,

    /// Our certificate for etcd, where it wants one, as etcdctl's --cert.
    #[arg(long, value_name = "FILE", env = "ETCDCTL_CERT", hide_env_values = true)]
    pub etcd_cert: Option<PathBuf>,

    /// Its private key, as etcdctl's --key.
    #[arg(long, value_name = "FILE", env = "ETCDCTL_KEY", hide_env_values = true)]
    pub etcd_key: Option<PathBuf>,

    /// Our name at etcd, where it asks for one.
    #[arg(long, value_name = "NAME", env = "WEFT_ETCD_USER")]
    pub etcd_user: Option<String>,

    /// The file of its password.
    #[arg(long, value_name = "FILE", env = "WEFT_ETCD_PASSWORD_FILE", hide_env_values = true)]
    pub etcd_password_file: Option<PathBuf>,
}

impl StoreOptions {
    /// The way to etcd, where state is kept there.
    pub(crate) fn etcd(&self) -> Result<Option<AccessSettings<'_>>, EtcdError> {
        let StoreAddress::Etcd(address) = &self.store else { return Ok(None) };
        let identity = match (self.etcd_cert.as_deref(), self.etcd_key.as_deref()) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((chain, key)),
            _ => return Err(EtcdError::Half("--etcd-cert and --etcd-key")),
        };
        let user = match (self.etcd_user.as_deref(), self.etcd_password_file.as_deref()) {
            (None, None) => None,
            (Some(name), Some(password)) => Some((name, password)),
            _ => return Err(EtcdError::Half("--etcd-user and --etcd-password-file")),
        };
        if identity.is_some() && self.etcd_ca.is_none() {
            return Err(EtcdError::Half("--etcd-cert and --etcd-ca"));
        }
        Ok(Some(AccessSettings { address, ca: self.etcd_ca.as_deref(), identity, user }))
    }
}

impl Config {
    /// Whether a cluster is read.
    pub(crate) fn reads_kubernetes(&self) -> bool {
        self.discovery.contains(&Discovery::Kubernetes) || self.store.store == StoreAddress::Kubernetes
    }

    /// How the injector equips pods.
    pub(crate) fn injection(&self) -> inject::Settings {
        let mut settings = inject::Settings::default();
        for (key, value) in &self.inject {
            // Each was tried when the command line was read.
            let _ = settings.set(key, value);
        }
        settings
    }
}

/// Where state is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreAddress {
    /// In one file in the data directory.
    Embedded,
    /// In etcd, which several control planes may share.
    Etcd(EtcdAddress),
    /// In the cluster, which several control planes share.
    Kubernetes,
}

fn patience(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(|error| error.to_string())?;
    if time.is_zero() { Err("an answer needs some time".to_owned()) } else { Ok(time) }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

fn store(text: &str) -> Result<StoreAddress, String> {
    match text {
        "embedded" => Ok(StoreAddress::Embedded),
        _ if text.starts_with("etcd://") => text.parse().map(StoreAddress::Etcd),
        "kubernetes" => Ok(StoreAddress::Kubernetes),
        _ => Err("there are embedded, etcd://HOST:PORT,... and kubernetes".into()),
    }
}

fn discovery(text: &str) -> Result<Discovery, String> {
    match text {
        "kubernetes" => Ok(Discovery::Kubernetes),
        _ if text.starts_with("consul=") => not_yet(text).map(|_| Discovery::Kubernetes),
        _ => Err("there is kubernetes".into()),
    }
}

fn injection(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    inject::Settings::default().set(key, value).map_err(|error| error.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

fn not_yet(_: &str) -> Result<String, String> {
    Err("not supported by this version yet".into())
}

fn service_cidr(text: &str) -> Result<Cidr, String> {
    let range: Cidr = text.trim().parse().map_err(|error: weft_core::model::CidrError| error.to_string())?;
    if range.host_bits() < 8 {
        return Err(format!("{range} is too small: at least 8 bits are needed"));
    }
    Ok(range)
}

fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = parse_duration(text).map_err(|error| error.to_string())?;
    if (SHORTEST..=LONGEST).contains(&ttl) { Ok(ttl) } else { Err("a certificate lives 1s to 8760h".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let name = std::iter::once("weft-control-plane");
        Config::try_parse_from(name.chain(flags.iter().copied())).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.grpc_addr.port(), 7443);
        assert_eq!(config.http_addr.port(), 7080);
        assert_eq!(config.otlp_addr.port(), 4317);
        assert_eq!(config.trust_domain.as_str(), "mesh.local");
        assert_eq!(config.service_cidr.len(), 2);
        assert_eq!(config.certificate_ttl, Duration::from_hours(24));
        assert_eq!(config.store.store, StoreAddress::Embedded);
    }

    #[test]
    fn half_of_what_proves_us_to_etcd_is_refused() {
        let whole = ["--etcd-ca", "ca", "--etcd-cert", "crt", "--etcd-key", "key"];
        let store = ["--store", "etcd://h:2379"];
        let etcd = |flags: &[&str]| {
            let config = parse(&[&store, flags].concat()).unwrap();
            config
                .store
                .etcd()
                .map(|settings| settings.unwrap().identity.is_some())
                .map_err(|e| e.to_string())
        };
        assert_eq!(etcd(&[]), Ok(false));
        assert_eq!(etcd(&whole), Ok(true));
        for half in [&whole[..4], &whole[2..], &["--etcd-user", "weft"], &["--etcd-password-file", "f"]] {
            assert!(etcd(half).unwrap_err().contains("belong together"), "{half:?}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_refused_and_says_so() {
        let consul = parse(&["--discovery", "consul=http://h:8500"]);
        assert!(consul.unwrap_err().contains("not supported by this version yet"));
        assert!(parse(&["--store", "kubernetes"]).unwrap().reads_kubernetes());
        for flags in [
            ["--store", "file"],
            ["--store", "etcd://h"],
            ["--certificate-ttl", "0s"],
            ["--certificate-ttl", "1d"],
            ["--service-cidr", "10.0.0.0/30"],
            ["--trust-domain", "A"],
            ["--discovery", "dns"],
            ["--inject", "image.registry"],
            ["--inject", "sidecar=no"],
        ] {
            assert!(parse(&flags).is_err(), "{flags:?}");
        }
    }
}
