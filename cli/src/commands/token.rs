//! `weft token`: what lets a sidecar join the mesh, and people administer it.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use weft_core::model::Name;
use weft_proto::v1;

use crate::args::{Common, duration, key_value};
use crate::client::{self, answer};
use crate::output::{self, Row};
use crate::target::Target;
use crate::time::until;

/// Make, list and revoke the tokens with which sidecars join and people administer
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Create(Create),
    /// Show the tokens that were made
    List,
    /// Make a token worthless from now on
    Revoke {
        /// The token's id, as weft token list shows it
        id: String,
    },
}

/// Make a token and print it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft token create --service-account web > web.token
  weft token create --service-account web --into web     token and ca.pem, for a sidecar elsewhere
  weft token create --service-account batch --service jobs --label team=data --ttl 10m --uses 1
  weft token create --admin viewer --ttl 8h > viewer.token      then: weft --token-file viewer.token status")]
struct Create {
    /// The service account that its holder runs as
    #[arg(long, value_name = "SA", required_unless_present = "admin")]
    service_account: Option<Name>,
    /// Not to join: its holder may look at everything (viewer), or change it too (operator)
    #[arg(long, value_name = "ROLE", value_parser = ["viewer", "operator"], conflicts_with_all = ["service_account", "service", "label", "uses"])]
    admin: Option<String>,
    /// A service that its holder may offer; repeatable [default: the one named like the service account]
    #[arg(long, value_name = "NAME")]
    service: Vec<Name>,
    /// A label that its holder has; others are then refused; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    label: Vec<(String, String)>,
    /// How long it may be used to join
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// How often it may be used to join [default: any number of times]
    #[arg(long, value_name = "N")]
    uses: Option<std::num::NonZeroU32>,
    /// Write it into this folder as `token`, and the mesh's trust anchors as `ca.pem`: what a sidecar joins with
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(&common.target)?;
    let mut admin = client::connect(&target).await?;
    match arguments.action {
        Action::Create(mut create) => {
            let into = create.into.take();
            let created = answer(admin.create_token(create.request(&common.namespace)).await)?;
            if let Some(folder) = into {
                write(&folder, "ca.pem", 0o644, &fs::read(&target.ca)?)?;
                write(&folder, "token", 0o600, created.token.as_bytes())?;
                output::note(&format!("token {} and ca.pem are in {}", created.id, folder.display()))?;
                return Ok(ExitCode::SUCCESS);
            }
            let shown = Created { id: created.id, token: created.token };
            output::object(common.output, &shown, &format!("{}\n", shown.token))?;
        }
        Action::List => {
            let tokens = answer(admin.list_tokens(v1::ListTokensRequest {}).await)?.tokens;
            let tokens = tokens.into_iter().map(Token::from);
            let shown = |token: &Token| {
                let is_here = token.namespace == common.namespace.as_str();
                // Administrators are of no namespace.
                common.all_namespaces || is_here || token.admin.is_some()
            };
            output::list(common.output, &tokens.filter(shown).collect::<Vec<_>>())?;
        }
        Action::Revoke { id } => {
            answer(admin.revoke_token(v1::RevokeTokenRequest { id: id.clone() }).await)?;
            output::note(&format!("token {id} revoked"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file whole or not at all: a sidecar may read it at any time.
fn write(folder: &Path, name: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
    let write = || {
        fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.persist(folder.join(name)).map_err(|error| error.error)
    };
    write().map(drop).with_context(|| format!("cannot write {name} in {}", folder.display()))
}

impl Create {
    fn request(self, namespace: &Name) -> v1::CreateTokenRequest {
        v1::CreateTokenRequest {
            namespace: namespace.to_string(),
            service_account: self.service_account.map(|account| account.to_string()).unwrap_or_default(),
            services: self.service.iter().map(ToString::to_string).collect(),
            labels: self.label.into_iter().collect::<HashMap<_, _>>(),
            ttl_seconds: self.ttl.as_secs(),
            uses: self.uses.map_or(0, std::num::NonZeroU32::get),
            admin: self.admin.unwrap_or_default(),
        }
    }
}

#[derive(Serialize)]
struct Created {
    id: String,
    token: String,
}

#[derive(Debug, Serialize)]
struct Token {
    id: String,
    namespace: String,
    service_account: String,
    services: Vec<String>,
    expires: String,
    uses_left: Option<u32>,
    revoked: bool,
    /// The role of an administrator's; none: it is a join token.
    admin: Option<String>,
}

impl From<v1::TokenSummary> for Token {
    fn from(token: v1::TokenSummary) -> Self {
        Self {
            id: token.id,
            namespace: token.namespace,
            service_account: token.service_account,
            services: token.services,
            expires: token.expires,
            uses_left: (!token.unlimited).then_some(token.uses_left),
            revoked: token.revoked,
            admin: Some(token.admin).filter(|role| !role.is_empty()),
        }
    }
}

impl Row for Token {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "ID", "FOR", "SERVICES", "EXPIRES", "USES LEFT", "REVOKED"];
    const PLURAL: &'static str = "tokens";

    fn cells(&self) -> Vec<String> {
        vec![
            self.namespace.clone(),
            self.id.clone(),
            self.admin.as_ref().map_or_else(|| self.service_account.clone(), |role| format!("admin: {role}")),
            self.services.join(","),
            until(&self.expires),
            self.uses_left.map_or_else(|| "any".to_owned(), |uses| uses.to_string()),
            if self.revoked { "yes" } else { "no" }.to_owned(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        action: Action,
    }

    fn check(line: &str, expected: &v1::CreateTokenRequest) {
        let Action::Create(create) = Line::parse_from(line.split(' ')).action else { panic!("{line}") };
        assert_eq!(create.request(&"default".parse().unwrap()), *expected, "{line}");
    }

    #[test]
    fn a_token_is_asked_for_as_the_options_say() {
        let least = v1::CreateTokenRequest {
            namespace: "default".into(),
            service_account: "web".into(),
            ttl_seconds: 3600,
            ..Default::default()
        };
        check("weft create --service-account web", &least);
        check(
            "weft create --admin viewer",
            &v1::CreateTokenRequest {
                service_account: String::new(),
                admin: "viewer".into(),
                ..least.clone()
            },
        );
        for bad in ["weft create", "weft create --admin owner", "weft create --admin viewer --uses 1"] {
            assert!(Line::try_parse_from(bad.split(' ')).is_err(), "{bad}");
        }
        check(
            "weft create --service-account web --service a --service b --label k=v --ttl 10m --uses 2",
            &v1::CreateTokenRequest {
                services: vec!["a".into(), "b".into()],
                labels: [("k".to_owned(), "v".to_owned())].into(),
                ttl_seconds: 600,
                uses: 2,
                ..least
            },
        );
    }

    #[test]
    fn an_unlimited_token_has_no_count() {
        let token = Token::from(v1::TokenSummary { unlimited: true, ..Default::default() });
        assert_eq!((token.uses_left, token.cells()[5].as_str()), (None, "any"));
        let token = Token::from(v1::TokenSummary { uses_left: 0, ..Default::default() });
        assert_eq!((token.uses_left, token.cells()[5].as_str()), (Some(0), "0"));
        assert_eq!(token.cells().len(), Token::COLUMNS.len());
    }
}
