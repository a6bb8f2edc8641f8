//! `weft identity`: the certificates in use, and who is not believed any more.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use weft_proto::v1;

use super::fetch::{self, Fetch};
use crate::args::{Common, duration};
use crate::client::{self, Admin, answer};
use crate::output::{self, Row};
use crate::target::Target;
use crate::time::until;

/// Show the certificates in use, revoke some, or fetch one for a peer without a sidecar
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  weft identity
  weft identity web-1 -o json
  weft identity revoke spiffe://mesh.local/ns/default/sa/web"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    /// Only this workload's
    workload: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Revoke(Revoke),
    Fetch(Fetch),
}

/// Believe an identity or a certificate no longer: its connections end, and it is not renewed
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft identity revoke spiffe://mesh.local/ns/default/sa/web --reason 'laptop stolen'
  weft identity revoke 5f2c9a71e00d43b1 --for 24h
  weft identity revoke --list
  weft identity revoke spiffe://mesh.local/ns/default/sa/web --undo")]
struct Revoke {
    /// A SPIFFE identity, or a certificate's serial number as weft identity -o wide shows it
    #[arg(value_name = "SPIFFE_ID|SERIAL", required_unless_present = "list")]
    what: Option<String>,
    /// How long [default: until it is undone; a certificate, until it ends]
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<Duration>,
    /// Why, for those who look at the list
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Believe it again
    #[arg(long, conflicts_with_all = ["lasts", "reason"])]
    undo: bool,
    /// Show what is revoked
    #[arg(long, conflicts_with_all = ["what", "undo", "lasts", "reason"])]
    list: bool,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(Action::Fetch(fetch)) = arguments.action {
        return fetch::execute(common, fetch).await;
    }
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    if let Some(Action::Revoke(revoke)) = arguments.action {
        return execute_revoke(common, &mut admin, revoke).await;
    }
    let request = v1::IdentitiesRequest {
        namespace: common.namespace.to_string(),
        all_namespaces: common.all_namespaces,
        workload: arguments.workload.unwrap_or_default(),
    };
    let identities = answer(admin.identities(request).await)?.identities;
    output::list(common.output, &identities.into_iter().map(Identity::from).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

async fn execute_revoke(common: &Common, admin: &mut Admin, revoke: Revoke) -> anyhow::Result<ExitCode> {
    let Some(what) = revoke.what else {
        let revoked = answer(admin.list_revocations(v1::ListRevocationsRequest {}).await)?.revocations;
        output::list(common.output, &revoked.into_iter().map(Revocation::from).collect::<Vec<_>>())?;
        return Ok(ExitCode::SUCCESS);
    };
    if revoke.undo {
        answer(admin.restore_identity(v1::RestoreIdentityRequest { what: what.clone() }).await)?;
        output::note(&format!("{what} is believed again"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let for_seconds = revoke.lasts.map_or(0, |lasts| lasts.as_secs().max(1));
    let request = v1::RevokeIdentityRequest { what, for_seconds, reason: revoke.reason };
    let revoked = answer(admin.revoke_identity(request).await)?.revocation.unwrap_or_default();
    output::note(&format!("{} is revoked", revoked.what))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Revocation {
    what: String,
    since: String,
    until: Option<String>,
    reason: String,
}

impl From<v1::Revocation> for Revocation {
    fn from(revocation: v1::Revocation) -> Self {
        let v1::Revocation { what, since, until, reason } = revocation;
        Self { what, since, until: Some(until).filter(|until| !until.is_empty()), reason }
    }
}

impl Row for Revocation {
    const COLUMNS: &'static [&'static str] = &["REVOKED", "SINCE", "UNTIL", "REASON"];
    const PLURAL: &'static str = "revocations";

    fn cells(&self) -> Vec<String> {
        let ends = self.until.as_deref().map_or_else(|| "undone".to_owned(), until);
        vec![self.what.clone(), until(&self.since), ends, self.reason.clone()]
    }
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
