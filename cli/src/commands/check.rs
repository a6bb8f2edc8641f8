//! `weft check`: whether the machine, the control plane and the sidecars are as they should be, and what to do if not.

mod cluster;

use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use weft_pods::{Exemption, Hub, Pod, intercept, userns};
use weft_proto::v1;

use super::status::{Plaintext, Sidecar};
use crate::args::Common;
use crate::client::{self, Admin, answer};
use crate::output::{self, Format};
use crate::target::Target;
use crate::time::until;

/// Check the machine, the control plane and the sidecars: one line a check, with a hint
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft check --pre     before anything runs: can this machine do it?
  weft check           everything
  weft check --proxy   the sidecars only
  weft check --cluster --pre     before weft install: can this cluster do it?
  weft check --cluster           what is installed there")]
pub(crate) struct Arguments {
    /// Only the machine: what weft demo and weft run need
    #[arg(long, conflicts_with = "proxy")]
    pre: bool,
    /// Only the sidecars
    #[arg(long)]
    proxy: bool,
    /// The cluster that kubectl asks, in place of this machine; with --pre whether it can be installed there
    #[arg(long, conflicts_with = "proxy")]
    cluster: bool,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    check: &'static str,
    verdict: Verdict,
    detail: String,
    /// What to do; empty where nothing is to be done.
    hint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// Good enough.
    Warning,
    Failed,
}

pub(crate) fn execute(common: &Common, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut checks = Vec::new();
    if arguments.cluster {
        let stage = if arguments.pre { cluster::Stage::Before } else { cluster::Stage::Installed };
        output::progress("asking the cluster by kubectl");
        cluster::look(stage, &mut |check| {
            if is_table(common.output) {
                output::print(&line(&check))?;
            }
            checks.push(check);
            Ok(())
        })?;
    } else if !arguments.proxy {
        // First: it takes a process with a single thread.
        checks.extend(machine());
    }
    if !arguments.pre && !arguments.cluster {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        checks.extend(runtime.block_on(mesh(common, arguments.proxy)));
    }
    // Those of a cluster are told already.
    if !(arguments.cluster && is_table(common.output)) {
        output::object(common.output, &checks, &table(&checks, output::colours(), output::room()))?;
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Failed);
    if failed && is_table(common.output) {
        output::note("weft: some checks failed")?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

impl Check {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, detail: detail.into(), hint: String::new() }
    }

    fn warning(check: &'static str, detail: impl Into<String>, hint: &str) -> Self {
        Self { check, verdict: Verdict::Warning, detail: detail.into(), hint: hint.to_owned() }
    }

    fn failed(check: &'static str, error: &anyhow::Error, hint: &str) -> Self {
        Self { check, verdict: Verdict::Failed, detail: format!("{error:#}"), hint: hint.to_owned() }
    }
}

/// Tries what pods are made of, by making one.
fn machine() -> Vec<Check> {
    let mut checks = Vec::new();
    if userns::needed() {
        match userns::enter() {
            Ok(()) => checks.push(Check::ok("user namespaces", "an ordinary user may make namespaces")),
            Err(error) => {
                checks.push(Check::failed("user namespaces", &error.into(), ""));
                return checks;
            }
        }
    }
    let hub = match Hub::create() {
        Ok(hub) => hub,
        Err(error) => {
            let hint = "the kernel needs CONFIG_NET_NS and CONFIG_BRIDGE (modprobe bridge)";
            checks.push(Check::failed("network namespaces", &error.into(), hint));
            return checks;
        }
    };
    checks.push(Check::ok("network namespaces", "with a bridge"));
    checks.push(match hub.address_v6() {
        Some(_) => Check::ok("IPv6", "pods have both IPv4 and IPv6"),
        None => {
            Check::warning("IPv6", "the kernel has none: pods have IPv4 only", "boot without ipv6.disable=1")
        }
    });
    match hub.pod("check") {
        Ok(pod) => {
            checks.push(Check::ok("pods", "linked to the bridge by veth"));
            checks.push(interception(&pod));
        }
        Err(error) => {
            checks.push(Check::failed("pods", &error.into(), "the kernel needs CONFIG_VETH (modprobe veth)"));
        }
    }
    checks
}

fn interception(pod: &Pod) -> Check {
    let rules = intercept::Rules::default().letting_through(Exemption::here());
    let program = || {
        intercept::up(&rules)?;
        let read_back = intercept::show()?;
        intercept::down()?;
        weft_pods::Result::Ok(read_back)
    };
    let hint = "the kernel needs CONFIG_NF_TABLES and its redirect (modprobe nft_redir nft_chain_nat)";
    match pod.run(program).and_then(|read_back| read_back) {
        Ok(Some(read_back)) if read_back == rules.ruleset() => {
            let by = match Exemption::here() {
                Exemption::User(id) => format!("the sidecar is let through as user {id}"),
                Exemption::Mark(mark) => format!("the sidecar is let through by socket mark {mark:#x}"),
            };
            Check::ok("interception", format!("nftables by netlink; {by}"))
        }
        Ok(_) => Check::failed("interception", &anyhow::anyhow!("the kernel made other rules of ours"), hint),
        Err(error) => Check::failed("interception", &error.into(), hint),
    }
}

/// Asks the control plane.
async fn mesh(common: &Common, sidecars_only: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let reached = async {
        let target = Target::find(&common.target)?;
        anyhow::Ok((client::connect(&target).await?, target))
    };
    let (mut admin, target) = match reached.await {
        Ok(reached) => reached,
        Err(error) => {
            let hint = "start one with weft demo, weft run or weft control-plane, or check the machine alone with --pre";
            checks.push(Check::failed("control plane", &error, hint));
            return checks;
        }
    };
    let status = match status(&mut admin, common).await {
        Ok(status) => status,
        Err(error) => {
            checks.push(Check::failed("control plane", &error, ""));
            return checks;
        }
    };
    if !sidecars_only {
        let at = target.urls.join(", ");
        let (version, revision) = (&status.version, status.revision);
        checks.push(Check::ok("control plane", format!("version {version} at {at}, revision {revision}")));
        checks.push(match target.anchors() {
            Ok((_, identity)) => Check::ok("identity", format!("it is {identity}")),
            Err(error) => Check::failed("identity", &error, ""),
        });
        match answer(admin.ca_status(v1::CaStatusRequest {}).await) {
            Ok(status) => checks.extend(authority(&status, Timestamp::now())),
            Err(error) => checks.push(Check::failed("authority", &error, "")),
        }
    }
    checks.extend(sidecars(status.sidecars.into_iter().map(Sidecar::from).collect(), Timestamp::now()));
    checks
}

async fn status(admin: &mut Admin, common: &Common) -> anyhow::Result<v1::StatusResponse> {
    let request =
        v1::StatusRequest { namespace: common.namespace.to_string(), all_namespaces: common.all_namespaces };
    answer(admin.status(request).await)
}

/// Whether roots and issuing certificate last, and are those that are there.
fn authority(status: &v1::CaStatusResponse, now: Timestamp) -> Vec<Check> {
    let is_given = status.source.starts_with("files");
    let renewing =
        if is_given { "have it renewed in its file" } else { "move to another one: weft ca rotate" };
    let signing = status.roots.first().map(|root| (root.name.as_str(), root.expires.as_str()));
    let issuing = Some((status.issuing.as_str(), status.issuing_expires.as_str()));
    let mut checks = Vec::new();
    // What others renew may live for hours; what we renew has months left, if all is well.
    let soon = SignedDuration::from_hours(if is_given { 2 } else { 30 * 24 });
    for (check, certificate, hint) in [
        ("root", signing, renewing),
        (
            "issuing certificate",
            issuing,
            if is_given { renewing } else { "look into the control plane's log" },
        ),
    ] {
        let Some((name, expires)) = certificate else { continue };
        let detail = format!("{name} ends {}", until(expires));
        checks.push(match expires.parse::<Timestamp>() {
            Ok(end) if end <= now => {
                Check { verdict: Verdict::Failed, ..Check::warning(check, detail, hint) }
            }
            Ok(end) if now.duration_until(end) < soon => Check::warning(check, detail, hint),
            Ok(_) | Err(_) => Check::ok(check, detail),
        });
    }
    if !status.trouble.is_empty() {
        let detail = format!("its files are not taken over: {}", status.trouble);
        checks.push(Check::warning("authority", detail, "what was last good signs until it ends"));
    }
    checks
}

/// Those that are connected matter; those that are gone have left.
fn sidecars(mut all: Vec<Sidecar>, now: Timestamp) -> Vec<Check> {
    all.retain(|sidecar| sidecar.connected);
    if all.is_empty() {
        let hint = "start one with weft run, or look into other namespaces with -A";
        return vec![Check::warning("sidecars", "none is connected", hint)];
    }
    let mut checks = vec![Check::ok("sidecars", format!("{} connected", all.len()))];
    for sidecar in &all {
        let trouble = |detail: String, hint: &str| Check {
            check: "sidecar",
            verdict: Verdict::Failed,
            detail: format!("{}: {detail}", sidecar.workload),
            hint: hint.to_owned(),
        };
        for rejected in &sidecar.rejected {
            let detail = format!("rejects {}: {}", rejected.resource, rejected.reason);
            checks.push(trouble(detail, "sidecar and control plane may be of different versions"));
        }
        if !sidecar.in_sync && sidecar.rejected.is_empty() {
            checks.push(trouble("not in sync".to_owned(), "if it lasts, look into the sidecar's log"));
        }
        if !sidecar.plaintext.is_empty() {
            let callers: Vec<_> = sidecar.plaintext.iter().map(Plaintext::named).collect();
            let detail = format!("{} takes plaintext from {}", sidecar.workload, callers.join(", "));
            let hint = "mtls mode Strict would cut them off: give them sidecars first";
            checks.push(Check::warning("plaintext", detail, hint));
        }
        if sidecar.certificate_expires.parse::<Timestamp>().is_ok_and(|expires| expires < now) {
            let detail = format!("its certificate expired {}", until(&sidecar.certificate_expires));
            checks.push(trouble(detail, "look into the sidecar's log for why it could not renew it"));
        }
    }
    checks
}

const fn is_table(format: Format) -> bool {
    matches!(format, Format::Table | Format::Wide)
}

/// One of many lines that come one after the other: as wide as the widest of them.
fn line(check: &Check) -> String {
    let widest = Check::failed("control plane", &anyhow::anyhow!(""), "");
    let both = table(&[widest, check.clone()], output::colours(), output::room());
    both.split_once('\n').map_or_else(String::new, |(_, line)| line.to_owned())
}

fn table(checks: &[Check], colours: bool, room: Option<usize>) -> String {
    let line = |check: &Check| {
        let (word, colour) = match check.verdict {
            Verdict::Ok => ("ok", 32),
            Verdict::Warning => ("warn", 33),
            Verdict::Failed => ("FAILED", 31),
        };
        let word = if colours { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.to_owned() };
        let hint = if check.hint.is_empty() { String::new() } else { format!("  ({})", check.hint) };
        vec![word, check.check.to_owned(), format!("{}{hint}", check.detail)]
    };
    output::align_or_fold(room, 2, checks.iter().map(line).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(change: impl FnOnce(&mut v1::SidecarStatus)) -> Sidecar {
        let mut status = v1::SidecarStatus {
            workload: "web-1".into(),
            connected: true,
            in_sync: true,
            certificate_expires: "2026-01-02T00:00:00Z".into(),
            ..Default::default()
        };
        change(&mut status);
        Sidecar::from(status)
    }

    fn check(change: impl FnOnce(&mut v1::SidecarStatus), expected: &str) {
        let checks = sidecars(vec![sidecar(change)], "2026-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(table(&checks, false, None), expected);
    }

    #[test]
    fn what_is_wrong_with_a_sidecar_is_told_with_a_hint() {
        check(|_| {}, "ok  sidecars  1 connected\n");
        check(
            |status| status.connected = false,
            "warn  sidecars  none is connected  (start one with weft run, or look into other namespaces with -A)\n",
        );
        check(
            |status| status.in_sync = false,
            "ok      sidecars  1 connected\n\
             FAILED  sidecar   web-1: not in sync  (if it lasts, look into the sidecar's log)\n",
        );
        check(
            |status| {
                let name = v1::ResourceName { kind: v1::Kind::Mesh.into(), name: "default".into() };
                status.rejected = vec![v1::Rejection { name: Some(name), reason: "too new".into() }];
                status.in_sync = false;
            },
            "ok      sidecars  1 connected\n\
             FAILED  sidecar   web-1: rejects mesh default: too new  (sidecar and control plane may be of different versions)\n",
        );
    }

    #[test]
    fn certificates_of_the_authority_that_end_soon_or_have_ended_are_told_of() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let verdicts = |source: &str, root: &str, issuing: &str| {
            let root = v1::CaRoot { name: "r".into(), expires: root.into(), ..Default::default() };
            let status = v1::CaStatusResponse {
                roots: vec![root],
                issuing: "i".into(),
                issuing_expires: issuing.into(),
                source: source.into(),
                ..Default::default()
            };
            authority(&status, now).iter().map(|check| (check.check, check.verdict)).collect::<Vec<_>>()
        };
        let (far, days, hour, over) =
            ("2027-01-01T00:00:00Z", "2026-01-20T00:00:00Z", "2026-01-01T01:00:00Z", "2025-12-31T00:00:00Z");
        let both = |root, issuing| vec![("root", root), ("issuing certificate", issuing)];
        assert_eq!(verdicts("the data directory", far, far), both(Verdict::Ok, Verdict::Ok));
        assert_eq!(verdicts("the data directory", days, over), both(Verdict::Warning, Verdict::Failed));
        assert_eq!(verdicts("files: a, b, c", far, days), both(Verdict::Ok, Verdict::Ok));
        assert_eq!(verdicts("files: a, b, c", far, hour), both(Verdict::Ok, Verdict::Warning));
        let trouble = v1::CaStatusResponse { trouble: "half written".into(), ..Default::default() };
        assert!(table(&authority(&trouble, now), false, None).contains("not taken over: half written"));
    }

    #[test]
    fn the_json_says_the_verdict_in_a_word() {
        let check = Check::warning("IPv6", "none", "");
        assert_eq!(
            serde_json::to_string(&check).unwrap(),
            r#"{"check":"IPv6","verdict":"warning","detail":"none","hint":""}"#
        );
    }
}
