//! What the sidecar is told when it starts: flags, each of them an environment variable too.
//!
//! Clap only collects the texts. They are read here, so that one start reports every mistake at once.

mod grammar;
mod machine;
pub mod otel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use weft_core::authorize::OutsideProbes;
use weft_core::model::Name;
use weft_pods::intercept::Source;

use crate::observe::Telemetry;
pub use grammar::{ControlPlane, Offer, Upstream};
use otel::Otel;

pub use machine::{Machine, own_addresses, reachable_addresses};

use crate::tls::PublicRoots;

const EXAMPLES: &str = "\
Examples:
  A sidecar beside an app that serves `orders` on port 8080:
    weft-proxy --control-plane https://10.0.0.1:7443 --ca ca.pem --token-file token --services orders:8080
  The same by environment, callers using port 80, the app listening on 8080 and speaking gRPC:
    WEFT_CONTROL_PLANE=https://cp:7443 WEFT_CA=ca.pem WEFT_TOKEN_FILE=token WEFT_SERVICES='orders:80->8080:grpc' weft-proxy
  Without interception, the app calling 127.0.0.1:9001 for orders:
    weft-proxy --upstreams 127.0.0.1:9001=orders:8080 ...
  Send the pod's connections through the sidecar, and see what is programmed:
    weft-proxy intercept up --skip-outbound-ports 25,465
    weft-proxy intercept show
  The app sees its callers' own addresses:
    weft-proxy intercept up --keep-source
    WEFT_KEEP_SOURCE=1 setpriv --reuid 2102 --clear-groups --inh-caps +net_admin --ambient-caps +net_admin weft-proxy ...
  Ask a sidecar elsewhere, by way of the control plane (also metrics, drain, log-level):
    weft proxy config orders-1";

/// The Weft sidecar: one beside every app, carrying what it sends and what is sent to it.
#[derive(Debug, Parser)]
#[command(name = "weft-proxy", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without one, run the sidecar.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The sidecar's settings.
    #[command(flatten)]
    pub run: RunArgs,
}

/// What `weft-proxy` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar (the default)
    #[command(after_help = EXAMPLES)]
    Run(Box<RunArgs>),
    /// Program this pod's packet filter so that its connections pass through the sidecar
    Intercept {
        /// Which way.
        #[command(subcommand)]
        action: InterceptAction,
    },
    /// Wait until the sidecar beside us is ready
    Await {
        /// How long to wait at most
        #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = grammar::duration)]
        timeout: Duration,
        /// The sidecar's admin address
        #[arg(long, env = "WEFT_ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:4191")]
        admin_addr: String,
    },
    /// Do nothing until told to end: the container that a pod's network belongs to
    Pause,
    /// Tell the sidecar beside us to drain and exit
    Shutdown {
        /// The sidecar's admin address
        #[arg(long, env = "WEFT_ADMIN_ADDR", value_name = "ADDR", default_value = "127.0.0.1:4191")]
        admin_addr: String,
    },
}

/// What to do with the packet filter.
#[derive(Debug, Subcommand)]
pub enum InterceptAction {
    /// Intercept; replaces what was programmed before, at once and as a whole
    Up(InterceptArgs),
    /// Stop intercepting and leave nothing behind
    Down,
    /// Print what is programmed
    Show,
}

/// What is intercepted and what is not.
#[derive(Debug, Args)]
pub struct InterceptArgs {
    /// Ports of the app that are not intercepted, e.g. 22,9100-9110
    #[arg(long, env = "WEFT_SKIP_INBOUND_PORTS", value_name = "PORTS", value_delimiter = ',')]
    pub skip_inbound_ports: Vec<String>,
    /// Destination ports that are not intercepted, e.g. 25,465
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_PORTS", value_name = "PORTS", value_delimiter = ',')]
    pub skip_outbound_ports: Vec<String>,
    /// Destination networks that are not intercepted, e.g. 10.96.0.0/16,fd00::/8
    #[arg(long, env = "WEFT_SKIP_OUTBOUND_CIDRS", value_name = "CIDRS", value_delimiter = ',')]
    pub skip_outbound_cidrs: Vec<String>,
    /// Let the app see its callers' own addresses; the sidecar is to be told the same
    #[arg(long, env = "WEFT_KEEP_SOURCE", value_parser = FalseyValueParser::new())]
    pub keep_source: bool,
    /// The sidecar's user, whose connections are let through
    #[arg(long, value_name = "UID", default_value_t = 2102)]
    pub uid: u32,
    /// Let through sockets that carry this mark, in place of a user's: 0x5745
    #[arg(long, env = "WEFT_MARK", value_name = "MARK", value_parser = grammar::mark)]
    pub mark: Option<u32>,
}

/// The sidecar's settings, as given.
#[derive(Debug, Clone, Default, Args)]
pub struct RunArgs {
    /// The control plane, https://HOST:7443; several, comma-separated, are tried in turn
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "URLS")]
    pub control_plane: Option<String>,
    /// Trust anchors for the control plane and the mesh, a PEM file
    #[arg(long, env = "WEFT_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The token that proves who we are; read again whenever it is needed
    #[arg(long, env = "WEFT_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// This workload's name [default: the host's name]
    #[arg(long, env = "WEFT_WORKLOAD", value_name = "NAME")]
    pub workload: Option<String>,
    /// Services this workload offers: NAME[:PORT[->APP-PORT][:http|http2|grpc|tcp|tls]],...; without a port: every port
    #[arg(long, env = "WEFT_SERVICES", value_name = "SERVICES")]
    pub services: Option<String>,
    /// What is asked of the app from outside the mesh, in plaintext, and let in: http:PORT:/PATH,tcp:PORT,grpc:PORT,...
    #[arg(long, env = "WEFT_PROBES", value_name = "PROBES")]
    pub probes: Option<String>,
    /// Labels: KEY=VALUE,...
    #[arg(long, env = "WEFT_LABELS", value_name = "LABELS")]
    pub labels: Option<String>,
    /// The locality, to prefer endpoints nearby
    #[arg(long, env = "WEFT_ZONE", value_name = "ZONE")]
    pub zone: Option<String>,
    /// The node of a cluster that it runs on, to prefer endpoints there where a service asks for it
    #[arg(long, env = "WEFT_NODE", value_name = "NODE")]
    pub node: Option<String>,
    /// The addresses others reach us at, at most one IPv4 and one IPv6 [default: found]
    #[arg(long, env = "WEFT_POD_IP", value_name = "IPS")]
    pub pod_ip: Option<String>,
    /// Where the app's connections are redirected to; [::] takes IPv4 too [default: [::]:4140]
    #[arg(long, env = "WEFT_OUTBOUND_ADDR", value_name = "ADDR")]
    pub outbound_addr: Option<String>,
    /// Where connections to the pod are redirected to; [::] takes IPv4 too [default: [::]:4143]
    #[arg(long, env = "WEFT_INBOUND_ADDR", value_name = "ADDR")]
    pub inbound_addr: Option<String>,
    /// Where the admin pages are; only /live, /ready and /metrics answer others than loopback
    /// [default: [::]:4191]
    #[arg(long, env = "WEFT_ADMIN_ADDR", value_name = "ADDRS")]
    pub admin_addr: Option<String>,
    /// Where names are resolved [default: 127.0.0.1:4153,[::1]:4153]
    #[arg(long, env = "WEFT_DNS_ADDR", value_name = "ADDRS")]
    pub dns_addr: Option<String>,
    /// The app's resolv.conf: who is asked about names that are not the mesh's [default: /etc/resolv.conf]
    #[arg(long, env = "WEFT_RESOLV_CONF", value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Who vouches for servers outside the mesh that the sidecar speaks TLS with, a PEM file [default: Mozilla's list, which is
    /// in the binary]
    #[arg(long, env = "SSL_CERT_FILE", value_name = "FILE")]
    pub public_roots: Option<PathBuf>,
    /// The same as files in folders: DIR:DIR
    #[arg(long, env = "SSL_CERT_DIR", value_name = "DIRS")]
    pub public_roots_dir: Option<String>,
    /// Listeners of their own for services, for use without interception: ADDR=NAME[.NAMESPACE]:PORT,...
    #[arg(long, env = "WEFT_UPSTREAMS", value_name = "UPSTREAMS")]
    pub upstreams: Option<String>,
    /// Keeps the last good configuration, certificate and key [default: /run/weft where writable]
    #[arg(long, env = "WEFT_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Worker threads [default: the cgroup's CPU limit, else half the cores]
    #[arg(long, env = "WEFT_WORKERS", value_name = "NUMBER")]
    pub workers: Option<String>,
    /// How long a drain may take before connections are cut [default: 30s]
    #[arg(long, env = "WEFT_DRAIN_TIMEOUT", value_name = "DURATION")]
    pub drain_timeout: Option<String>,
    /// How long calls of an app that is still there are taken, at most, after the drain began [default: as long as it may take]
    #[arg(long, env = "WEFT_APP_GRACE", value_name = "DURATION")]
    pub app_grace: Option<String>,
    /// How long new connections are taken, at least, after the drain began [default: 0s]
    #[arg(long, env = "WEFT_MINIMUM_DRAIN", value_name = "DURATION")]
    pub minimum_drain: Option<String>,
    /// Mark (SO_MARK) of every socket the sidecar opens, where interception goes by mark: 0x5745
    #[arg(long, env = "WEFT_MARK", value_name = "MARK")]
    pub mark: Option<String>,
    /// Connect to the app from its callers' own addresses; takes CAP_NET_ADMIN, and `intercept up --keep-source`
    #[arg(long, env = "WEFT_KEEP_SOURCE", value_parser = FalseyValueParser::new())]
    pub keep_source: bool,
    /// on: requests are counted, traced and told of; off: they are not, and their trace headers are left alone
    #[arg(long, env = "WEFT_TELEMETRY", value_name = "SWITCH")]
    pub telemetry: Option<String>,
    /// The log's form: text or json
    #[arg(long, env = "WEFT_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: String,
    /// What is logged, as RUST_LOG says it [default: $RUST_LOG, else info]
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "FILTER")]
    pub log_level: Option<String>,
}

/// The sidecar's settings, understood.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Control planes, tried in turn.
    pub control_planes: Vec<ControlPlane>,
    /// The PEM file with the trust anchors.
    pub ca: PathBuf,
    /// The file with the token.
    pub token_file: PathBuf,
    /// This workload's name; its namespace is its identity's.
    pub workload: Name,
    /// What it offers.
    pub offers: Vec<Offer>,
    /// What is asked of the app from outside the mesh.
    pub probes: OutsideProbes,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its locality; may be empty.
    pub zone: String,
    /// The node of a cluster that it runs on; may be empty.
    pub node: String,
    /// Where others reach it; empty: to be found.
    pub pod_ips: Vec<IpAddr>,
    /// The listener for what the app sends.
    pub outbound: SocketAddr,
    /// The listener for what is sent to the pod; its port is the sidecar's own port for mesh traffic.
    pub inbound: SocketAddr,
    /// Listeners of the admin pages.
    pub admin: Vec<SocketAddr>,
    /// Listeners of the resolver.
    pub dns: Vec<SocketAddr>,
    /// The app's `resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Who vouches for servers outside the mesh.
    pub public_roots: PublicRoots,
    /// Listeners that each lead to one service.
    pub upstreams: Vec<Upstream>,
    /// Where the last good state is kept; none: nowhere.
    pub cache_dir: Option<PathBuf>,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// How long calls of an app that is still there are taken after the drain began.
    pub app_grace: Duration,
    /// How long new connections are taken after the drain began.
    pub minimum_drain: Duration,
    /// Mark of every socket the sidecar opens.
    pub mark: Option<u32>,
    /// As whom the app is called.
    pub source: Source,
    /// Whether requests are counted, traced and told of.
    pub telemetry: Telemetry,
    /// What OpenTelemetry's variables say.
    pub otel: Otel,
}

/// Something that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The flag.
    pub flag: &'static str,
    /// What is wrong with it, and what would be right.
    pub what: String,
}

impl std::fmt::Display for Mistake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let variable = self.flag.trim_start_matches('-').replace('-', "_").to_uppercase();
        write!(f, "{} (WEFT_{variable}): {}", self.flag, self.what)
    }
}

impl RunArgs {
    /// Understands the settings, or says everything that is wrong with them.
    pub fn settle(self, machine: &Machine) -> Result<Settings, Vec<Mistake>> {
        let mut mistakes = Mistakes(Vec::new());
        let control_planes =
            mistakes.list("--control-plane", self.control_plane.as_deref(), grammar::control_plane);
        if control_planes.is_empty() && self.control_plane.is_none() {
            mistakes.add("--control-plane", "required, e.g. https://10.0.0.1:7443");
        }
        let ca = mistakes.required("--ca", self.ca, "the PEM file with the mesh's trust anchors");
        let token_file = mistakes.required("--token-file", self.token_file, "the file with a join token");
        let workload = self.workload.unwrap_or_else(|| machine.hostname.clone());
        let workload = mistakes.one("--workload", &workload, grammar::name);
        let offers = mistakes.list("--services", self.services.as_deref(), grammar::offer);
        mistakes.repeated("--services", &offers, |offer| match offer.port {
            Some(offered) => format!("{}:{}", offer.service, offered.port),
            None => offer.service.to_string(),
        });
        let probes = grammar::probes(self.probes.as_deref().unwrap_or_default());
        let probes =
            probes.iter().filter_map(|probe| mistakes.one("--probes", probe, grammar::probe)).collect();
        let labels = mistakes.list("--labels", self.labels.as_deref(), grammar::label);
        mistakes.repeated("--labels", &labels, |(key, _)| key.clone());
        let pod_ips = mistakes.list("--pod-ip", self.pod_ip.as_deref(), grammar::pod_ip);
        let outbound = mistakes.listener("--outbound-addr", self.outbound_addr.as_deref(), machine.any(4140));
        let inbound = mistakes.listener("--inbound-addr", self.inbound_addr.as_deref(), machine.any(4143));
        let admin = mistakes.listeners("--admin-addr", self.admin_addr.as_deref(), vec![machine.any(4191)]);
        let dns = mistakes.listeners("--dns-addr", self.dns_addr.as_deref(), machine.loopback(4153));
        let upstreams = mistakes.list("--upstreams", self.upstreams.as_deref(), grammar::upstream);
        mistakes.repeated("--upstreams", &upstreams, |upstream| upstream.listen.to_string());
        let folders = self.public_roots_dir.iter().flat_map(|folders| folders.split(':'));
        let folders = folders.filter(|folder| !folder.is_empty()).map(PathBuf::from).collect();
        let workers = self.workers.map(|text| mistakes.one("--workers", &text, grammar::workers));
        let drain_timeout = mistakes.duration("--drain-timeout", self.drain_timeout.as_deref(), 30);
        let app_grace = self.app_grace.as_deref();
        let app_grace =
            app_grace.map_or(drain_timeout, |text| mistakes.duration("--app-grace", Some(text), 0));
        let minimum_drain = mistakes.duration("--minimum-drain", self.minimum_drain.as_deref(), 0);
        let mark = self.mark.map(|text| mistakes.one("--mark", &text, grammar::mark));
        let telemetry = self.telemetry.map(|text| mistakes.one("--telemetry", &text, grammar::telemetry));
        match (ca, token_file, workload) {
            (Some(ca), Some(token_file), Some(workload)) if mistakes.0.is_empty() => Ok(Settings {
                control_planes,
                ca,
                token_file,
                workload,
                offers,
                probes,
                labels: labels.into_iter().collect(),
                zone: self.zone.unwrap_or_default(),
                node: self.node.unwrap_or_default(),
                pod_ips,
                outbound,
                inbound,
                admin,
                dns,
                resolv_conf: self.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".into()),
                public_roots: PublicRoots { file: self.public_roots, folders },
                upstreams,
                cache_dir: self.cache_dir.or_else(|| machine.cache_dir.clone()),
                workers: workers.flatten().unwrap_or(machine.workers),
                drain_timeout,
                app_grace,
                minimum_drain,
                mark: mark.flatten(),
                source: source(self.keep_source),
                telemetry: telemetry.flatten().unwrap_or(machine.otel.telemetry),
                otel: machine.otel.clone(),
            }),
            _ => Err(mistakes.0),
        }
    }
}

impl InterceptArgs {
    /// As whom the app is called.
    pub fn source(&self) -> Source {
        source(self.keep_source)
    }
}

fn source(keep: bool) -> Source {
    if keep { Source::Caller } else { Source::Sidecar }
}

/// Collects what is wrong while the rest is read on.
struct Mistakes(Vec<Mistake>);

impl Mistakes {
    fn add(&mut self, flag: &'static str, what: impl Into<String>) {
        self.0.push(Mistake { flag, what: what.into() });
    }

    fn required<T>(&mut self, flag: &'static str, value: Option<T>, what: &str) -> Option<T> {
        if value.is_none() {
            self.add(flag, format!("required: {what}"));
        }
        value
    }

    fn one<T>(
        &mut self,
        flag: &'static str,
        text: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        read(text).map_err(|what| self.add(flag, what)).ok()
    }

    fn list<T>(
        &mut self,
        flag: &'static str,
        text: Option<&str>,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let items = text.unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty());
        items.filter_map(|item| self.one(flag, item, &read)).collect()
    }

    fn listener(&mut self, flag: &'static str, text: Option<&str>, otherwise: SocketAddr) -> SocketAddr {
        text.and_then(|text| self.one(flag, text, grammar::listener)).unwrap_or(otherwise)
    }

    fn listeners(
        &mut self,
        flag: &'static str,
        text: Option<&str>,
        otherwise: Vec<SocketAddr>,
    ) -> Vec<SocketAddr> {
        if text.is_some() { self.list(flag, text, grammar::listener) } else { otherwise }
    }

    fn duration(&mut self, flag: &'static str, text: Option<&str>, otherwise_seconds: u64) -> Duration {
        let given = text.and_then(|text| self.one(flag, text, grammar::duration));
        given.unwrap_or_else(|| Duration::from_secs(otherwise_seconds))
    }

    fn repeated<T>(&mut self, flag: &'static str, items: &[T], key: impl Fn(&T) -> String) {
        let mut seen = std::collections::HashSet::new();
        for item in items {
            let key = key(item);
            if !seen.insert(key.clone()) {
                self.add(flag, format!("{key} is given twice"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            hostname: "box".into(),
            ipv6: true,
            workers: NonZeroUsize::MIN,
            cache_dir: Some("/run/weft".into()),
            otel: Otel::default(),
        }
    }

    fn enough() -> RunArgs {
        RunArgs {
            control_plane: Some("https://10.0.0.1:7443, https://cp".into()),
            ca: Some("ca.pem".into()),
            token_file: Some("token".into()),
            ..RunArgs::default()
        }
    }

    #[test]
    fn the_flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_not_said_has_the_contracts_defaults() {
        let settings = enough().settle(&machine()).unwrap();
        assert_eq!(settings.workload.as_str(), "box");
        assert_eq!((settings.zone.as_str(), settings.node.as_str()), ("", ""));
        assert_eq!(settings.outbound, "[::]:4140".parse().unwrap());
        assert_eq!(settings.inbound.port(), 4143);
        assert_eq!(settings.dns, ["127.0.0.1:4153".parse().unwrap(), "[::1]:4153".parse().unwrap()]);
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        assert_eq!(settings.minimum_drain, Duration::ZERO);
        assert_eq!(settings.control_planes.len(), 2);
        assert_eq!(settings.cache_dir.as_deref(), Some("/run/weft".as_ref()));
    }

    #[test]
    fn without_ipv6_only_ipv4_is_listened_on() {
        let settings = enough().settle(&Machine { ipv6: false, ..machine() }).unwrap();
        assert_eq!(settings.admin, ["0.0.0.0:4191".parse().unwrap()]);
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let args = RunArgs {
            control_plane: Some("ftp://x".into()),
            services: Some("orders:0,payments:80,payments:80".into()),
            labels: Some("novalue".into()),
            workers: Some("0".into()),
            telemetry: Some("less".into()),
            drain_timeout: Some("soon".into()),
            ..RunArgs::default()
        };
        let mistakes = args.settle(&machine()).unwrap_err();
        let flags: Vec<_> = mistakes.iter().map(|mistake| mistake.flag).collect();
        assert_eq!(
            flags,
            [
                "--control-plane",
                "--ca",
                "--token-file",
                "--services",
                "--services",
                "--labels",
                "--workers",
                "--drain-timeout",
                "--telemetry"
            ]
        );
        assert!(mistakes[1].to_string().starts_with("--ca (WEFT_CA): required"));
    }

    #[test]
    fn flags_need_no_subcommand() {
        let cli = Cli::try_parse_from(["weft-proxy", "--ca", "x", "--services", "a:80->81"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.run.services.as_deref(), Some("a:80->81"));
        let cli =
            Cli::try_parse_from(["weft-proxy", "intercept", "up", "--skip-inbound-ports", "22,80"]).unwrap();
        let Some(Command::Intercept { action: InterceptAction::Up(args) }) = cli.command else { panic!() };
        assert_eq!(args.skip_inbound_ports, ["22", "80"]);
        assert!(Cli::try_parse_from(["weft-proxy", "--ca", "x", "run"]).is_err());
    }
}
