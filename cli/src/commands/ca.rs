//! `weft ca`: the roots of the mesh, and the move from one to the next.

use std::fmt::Write as _;
use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output;
use crate::target::Target;
use crate::time::until;

/// Show the mesh's roots, or move to another one
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show roots and issuing certificate, how far a move has come and what it waits for
    #[command(after_help = "Examples:
  weft ca status
  weft ca status -o json")]
    Status,
    /// Move to a new root: nobody is restarted, no request fails, weft ca status shows each step
    #[command(after_help = "Examples:
  weft ca rotate
  watch weft ca status
  weft ca rotate --abort      as long as the new root is only announced")]
    Rotate {
        /// Give up a move that is only announced: the old root stays
        #[arg(long)]
        abort: bool,
    },
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let status = match arguments.action {
        Action::Status => answer(admin.ca_status(v1::CaStatusRequest {}).await)?,
        Action::Rotate { abort } => answer(admin.rotate_ca(v1::RotateCaRequest { abort }).await)?,
    };
    let status = Status::from(status);
    output::object(common.output, &status, &status.table())?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Status {
    phase: String,
    since: String,
    waits_for: Vec<String>,
    roots: Vec<Root>,
    issuing: String,
    issuing_expires: String,
    source: String,
    /// Why what is there is not taken over; empty: it is.
    trouble: String,
}

#[derive(Debug, Serialize)]
struct Root {
    name: String,
    fingerprint: String,
    role: String,
    expires: String,
    certificates: u32,
}

impl From<v1::CaStatusResponse> for Status {
    fn from(status: v1::CaStatusResponse) -> Self {
        let root = |root: v1::CaRoot| {
            let v1::CaRoot { name, fingerprint, role, expires, certificates } = root;
            Root { name, fingerprint, role, expires, certificates }
        };
        let v1::CaStatusResponse {
            phase,
            since,
            waits_for,
            roots,
            issuing,
            issuing_expires,
            source,
            trouble,
        } = status;
        let roots = roots.into_iter().map(root).collect();
        Self { phase, since, waits_for, roots, issuing, issuing_expires, source, trouble }
    }
}

impl Status {
    fn table(&self) -> String {
        let header = ["ROOT", "ROLE", "CERTIFICATES", "EXPIRES", "FINGERPRINT"].map(str::to_owned).to_vec();
        let row = |root: &Root| {
            let (name, role, fingerprint) = (root.name.clone(), root.role.clone(), &root.fingerprint);
            let short = fingerprint.get(..16).unwrap_or(fingerprint).to_owned();
            vec![name, role, root.certificates.to_string(), until(&root.expires), short]
        };
        let mut text = output::align(std::iter::once(header).chain(self.roots.iter().map(row)));
        let told = match self.phase.as_str() {
            "announced" => "both are trusted, the old one signs",
            "moved" => "both are trusted, the new one signs",
            _ if self.roots.len() > 1 => "these roots are trusted",
            _ => "one root is trusted",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{} since {}: {told}", self.phase, self.since);
        for waited in &self.waits_for {
            let _ = writeln!(text, "waits for {waited}");
        }
        let _ = writeln!(text, "issuing: {}, ends {}", self.issuing, until(&self.issuing_expires));
        let _ = writeln!(text, "kept in {}", self.source);
        if !self.trouble.is_empty() {
            let _ = writeln!(text, "NOT TAKEN OVER: {}", self.trouble);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_shows_its_roots_its_phase_and_what_it_waits_for() {
        let root = |name: &str, role: &str, certificates| v1::CaRoot {
            name: name.into(),
            fingerprint: "0123456789abcdef0123".into(),
            role: role.into(),
            expires: String::new(),
            certificates,
        };
        let status = Status::from(v1::CaStatusResponse {
            phase: "moved".into(),
            since: "2026-01-02T03:04:05Z".into(),
            waits_for: vec!["2 certificates of the former root".into()],
            roots: vec![root("Weft root b", "signing", 5), root("Weft root a", "former", 2)],
            issuing: "Weft issuing c".into(),
            issuing_expires: String::new(),
            source: "the data directory".into(),
            trouble: "cannot read it".into(),
        });
        assert_eq!(
            status.table(),
            "ROOT         ROLE     CERTIFICATES  EXPIRES  FINGERPRINT\n\
             Weft root b  signing  5             -        0123456789abcdef\n\
             Weft root a  former   2             -        0123456789abcdef\n\
             \n\
             moved since 2026-01-02T03:04:05Z: both are trusted, the new one signs\n\
             waits for 2 certificates of the former root\n\
             issuing: Weft issuing c, ends -\n\
             kept in the data directory\n\
             NOT TAKEN OVER: cannot read it\n"
        );
    }
}
