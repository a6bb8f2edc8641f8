//! `weft status`: every sidecar.

use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Row};
use crate::target::Target;
use crate::time::until;

/// Show every sidecar: connected, identity, certificate, configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft status
  weft status -A -o json")]
pub(crate) struct Arguments {}

pub(crate) async fn execute(common: &Common, _arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request =
        v1::StatusRequest { namespace: common.namespace.to_string(), all_namespaces: common.all_namespaces };
    let v1::StatusResponse { sidecars, missing, .. } = answer(admin.status(request).await)?;
    output::missing(&missing)?;
    output::list(common.output, &sidecars.into_iter().map(Sidecar::from).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

/// What the control plane knows of a sidecar.
#[derive(Debug, Serialize)]
pub(super) struct Sidecar {
    namespace: String,
    pub(super) workload: String,
    service_account: String,
    pub(super) connected: bool,
    ready: bool,
    revision: u64,
    pub(super) in_sync: bool,
    pub(super) rejected: Vec<Rejected>,
    pub(super) certificate_expires: String,
    version: String,
    services: Vec<String>,
    addresses: Vec<String>,
    unhealthy: Vec<String>,
    pub(super) plaintext: Vec<Plaintext>,
}

/// Someone who was let in without an identity.
#[derive(Debug, Serialize)]
pub(super) struct Plaintext {
    caller: String,
    address: String,
    port: u32,
    last_seen: String,
}

/// A resource that a sidecar would not take.
#[derive(Debug, Serialize)]
pub(super) struct Rejected {
    pub(super) resource: String,
    pub(super) reason: String,
}

impl From<v1::SidecarStatus> for Sidecar {
    fn from(status: v1::SidecarStatus) -> Self {
        Self {
            namespace: status.namespace,
            workload: status.workload,
            service_account: status.service_account,
            connected: status.connected,
            ready: status.ready,
            revision: status.revision,
            in_sync: status.in_sync,
            rejected: status.rejected.into_iter().map(Rejected::from).collect(),
            certificate_expires: status.certificate_expires,
            version: status.version,
            services: status.services,
            addresses: status.addresses,
            unhealthy: status.unhealthy,
            plaintext: status.plaintext.into_iter().map(Plaintext::from).collect(),
        }
    }
}

impl From<v1::PlaintextHeard> for Plaintext {
    fn from(heard: v1::PlaintextHeard) -> Self {
        let v1::PlaintextHeard { caller, address, port, last_seen } = heard;
        Self { caller, address, port, last_seen }
    }
}

impl Plaintext {
    /// Who, and on which port: `default/legacy:8080`.
    pub(super) fn named(&self) -> String {
        let who = if self.caller.is_empty() { &self.address } else { &self.caller };
        format!("{who} on port {}", self.port)
    }
}

impl From<v1::Rejection> for Rejected {
    fn from(rejection: v1::Rejection) -> Self {
        let name = rejection.name.unwrap_or_default();
        let kind = name.kind().as_str_name().to_ascii_lowercase();
        Self { resource: format!("{kind} {}", name.name), reason: rejection.reason }
    }
}

impl Row for Sidecar {
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "WORKLOAD",
        "CONNECTED",
        "READY",
        "IN SYNC",
        "CERTIFICATE",
        "PLAINTEXT",
        "SERVICE ACCOUNT",
        "REVISION",
        "VERSION",
        "SERVICES",
        "ADDRESSES",
        "PLAINTEXT CALLERS",
    ];
    const WIDE_ONLY: usize = 6;
    const PLURAL: &'static str = "sidecars";

    fn cells(&self) -> Vec<String> {
        let in_sync = match self.rejected.first() {
            Some(rejected) => format!("rejected {}: {}", rejected.resource, rejected.reason),
            None => yes(self.in_sync),
        };
        let ready = match self.unhealthy.first() {
            Some(service) => format!("no: fails the health check of {service}"),
            None => yes(self.ready),
        };
        let plaintext = match self.plaintext.len() {
            0 => "no".to_owned(),
            1 => "1 caller".to_owned(),
            many => format!("{many} callers"),
        };
        let callers = self
            .plaintext
            .iter()
            .map(|heard| format!("{}, {}", heard.named(), until(&heard.last_seen)))
            .collect::<Vec<_>>();
        vec![
            self.namespace.clone(),
            self.workload.clone(),
            yes(self.connected),
            ready,
            in_sync,
            until(&self.certificate_expires),
            plaintext,
            self.service_account.clone(),
            self.revision.to_string(),
            self.version.clone(),
            self.services.join(","),
            self.addresses.join(","),
            callers.join("; "),
        ]
    }
}

fn yes(answer: bool) -> String {
    if answer { "yes" } else { "no" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(rejected: Vec<v1::Rejection>) -> Sidecar {
        Sidecar::from(v1::SidecarStatus {
            namespace: "default".into(),
            workload: "web-1".into(),
            service_account: "web".into(),
            connected: true,
            ready: true,
            revision: 4,
            in_sync: rejected.is_empty(),
            rejected,
            certificate_expires: "2026-01-03T03:04:05Z".into(),
            version: "0.1.0".into(),
            addresses: vec!["10.238.0.2".into()],
            services: vec!["default/web".into()],
            unhealthy: Vec::new(),
            plaintext: vec![v1::PlaintextHeard {
                caller: "default/legacy".into(),
                address: "10.238.0.9".into(),
                port: 8080,
                last_seen: "2026-01-03T03:04:05Z".into(),
            }],
        })
    }

    fn rejection() -> v1::Rejection {
        let name = v1::ResourceName { kind: v1::Kind::Service.into(), name: "default/orders".into() };
        v1::Rejection { name: Some(name), reason: "no address".into() }
    }

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        assert_eq!(
            serde_json::to_string(&sidecar(vec![rejection()])).unwrap(),
            r#"{"namespace":"default","workload":"web-1","service_account":"web","connected":true,"ready":true,"revision":4,"in_sync":false,"rejected":[{"resource":"service default/orders","reason":"no address"}],"certificate_expires":"2026-01-03T03:04:05Z","version":"0.1.0","services":["default/web"],"addresses":["10.238.0.2"],"unhealthy":[],"plaintext":[{"caller":"default/legacy","address":"10.238.0.9","port":8080,"last_seen":"2026-01-03T03:04:05Z"}]}"#
        );
    }

    #[test]
    fn who_fails_a_health_check_is_not_ready_and_it_is_said_of_which_service() {
        let failing = Sidecar { ready: false, unhealthy: vec!["default/web".into()], ..sidecar(Vec::new()) };
        assert_eq!(failing.cells()[3], "no: fails the health check of default/web");
        assert_eq!(sidecar(Vec::new()).cells()[3], "yes");
    }

    #[test]
    fn who_calls_in_plaintext_is_counted_and_named_where_there_is_room() {
        let cells = sidecar(Vec::new()).cells();
        assert_eq!(cells[6], "1 caller");
        assert!(cells[12].starts_with("default/legacy on port 8080, "), "{}", cells[12]);
        let silent = Sidecar { plaintext: Vec::new(), ..sidecar(Vec::new()) };
        assert_eq!((silent.cells()[6].as_str(), silent.cells()[12].as_str()), ("no", ""));
    }

    #[test]
    fn what_is_rejected_stands_in_the_table() {
        assert_eq!(sidecar(Vec::new()).cells()[4], "yes");
        assert_eq!(sidecar(vec![rejection()]).cells()[4], "rejected service default/orders: no address");
        assert_eq!(sidecar(Vec::new()).cells().len(), Sidecar::COLUMNS.len());
    }
}
