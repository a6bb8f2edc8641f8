//! `weft identity`: the certificates in use.

use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Row};
use crate::target::Target;
use crate::time::until;

/// Show the certificates in use
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft identity
  weft identity web-1 -o json")]
pub(crate) struct Arguments {
    /// Only this workload's
    workload: Option<String>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::IdentitiesRequest {
        namespace: common.namespace.to_string(),
        all_namespaces: common.all_namespaces,
        workload: arguments.workload.unwrap_or_default(),
    };
    let identities = answer(admin.identities(request).await)?.identities;
    output::list(common.output, &identities.into_iter().map(Identity::from).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Identity {
    namespace: String,
    workload: String,
    spiffe_id: String,
    serial: String,
    issuer: String,
    not_before: String,
    not_after: String,
}

impl From<v1::IssuedIdentity> for Identity {
    fn from(identity: v1::IssuedIdentity) -> Self {
        let v1::IssuedIdentity { namespace, workload, spiffe_id, serial, issuer, not_before, not_after } =
            identity;
        Self { namespace, workload, spiffe_id, serial, issuer, not_before, not_after }
    }
}

impl Row for Identity {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "WORKLOAD", "SPIFFE ID", "EXPIRES", "SERIAL", "ISSUER", "NOT BEFORE", "NOT AFTER"];
    const WIDE_ONLY: usize = 4;
    const PLURAL: &'static str = "certificates";

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.workload.clone(),
            self.spiffe_id.clone(),
            until(&self.not_after),
            self.serial.clone(),
            self.issuer.clone(),
            self.not_before.clone(),
            self.not_after.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        let identity = Identity::from(v1::IssuedIdentity {
            namespace: "default".into(),
            workload: "web-1".into(),
            spiffe_id: "spiffe://mesh.local/ns/default/sa/web".into(),
            serial: "0a".into(),
            issuer: "CN=issuing".into(),
            not_before: "2026-01-02T03:04:05Z".into(),
            not_after: "2026-01-03T03:04:05Z".into(),
        });
        assert_eq!(
            serde_json::to_string(&identity).unwrap(),
            r#"{"namespace":"default","workload":"web-1","spiffe_id":"spiffe://mesh.local/ns/default/sa/web","serial":"0a","issuer":"CN=issuing","not_before":"2026-01-02T03:04:05Z","not_after":"2026-01-03T03:04:05Z"}"#
        );
        assert_eq!(identity.cells().len(), Identity::COLUMNS.len());
    }
}
