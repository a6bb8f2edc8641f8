//! What may stand on the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use jiff::SignedDuration;
use weft_core::model::Name;

use crate::output::Format;
use crate::{commands, demo, run, tether};

const EXAMPLES: &str = "Examples:
  weft demo                                                    a whole mesh on this machine
  weft run --service hello --port 8000 -- python3 -m http.server 8000
  weft run --service me -- curl -s http://hello:8000/          another member of the same mesh
  weft status                                                  every sidecar
  weft stat                                                    how requests fare
  weft tap orders --status 5xx                                 what fails, as it passes
  weft traces --slower-than 100ms                              recent traces";

/// A service mesh in one command.
#[derive(Debug, Parser)]
#[command(name = "weft", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t)]
    pub(crate) output: Format,
    /// The namespace in question
    #[arg(short, long, global = true, value_name = "NAME", default_value = "default")]
    pub(crate) namespace: Name,
    /// All namespaces
    #[arg(short = 'A', long, global = true)]
    pub(crate) all_namespaces: bool,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

/// Where the control plane is and how to prove oneself to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct TargetOptions {
    /// The control plane; several, comma-separated, are tried in turn [default: this machine's]
    #[arg(long, global = true, env = "WEFT_CONTROL_PLANE", value_name = "URL", hide_env_values = true)]
    pub(crate) control_plane: Option<String>,
    /// The control plane's data directory, for ca.pem and admin.token
    #[arg(long, global = true, env = "WEFT_DATA_DIR", value_name = "DIR", hide_env_values = true)]
    pub(crate) data_dir: Option<PathBuf>,
    /// The mesh's trust anchors, a PEM file
    #[arg(long, global = true, env = "WEFT_CA", value_name = "FILE", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,
    /// The administrator's token
    #[arg(long, global = true, env = "WEFT_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    pub(crate) token_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Demo(demo::Arguments),
    Run(run::Arguments),
    Systemd(commands::systemd::Arguments),
    Inject(commands::inject::InjectArguments),
    Uninject(commands::inject::UninjectArguments),
    Install(commands::install::InstallArguments),
    Upgrade(commands::install::UpgradeArguments),
    Uninstall(commands::install::UninstallArguments),
    Crds(commands::install::CrdsArguments),
    Apply(commands::apply::Arguments),
    Get(commands::get::Arguments),
    Delete(commands::delete::Arguments),
    Diff(commands::diff::Arguments),
    History(commands::history::Arguments),
    Rollback(commands::rollback::Arguments),
    Backup(commands::backup::BackupArguments),
    Restore(commands::backup::RestoreArguments),
    Status(commands::status::Arguments),
    Endpoints(commands::endpoints::Arguments),
    Stat(commands::stat::Arguments),
    Top(commands::top::Arguments),
    Tap(commands::tap::Arguments),
    Check(commands::check::Arguments),
    Explain(commands::explain::Arguments),
    Traces(commands::traces::Arguments),
    Trace(commands::trace::Arguments),
    Why(commands::why::Arguments),
    Policy(commands::policy::Arguments),
    Identity(commands::identity::Arguments),
    Ca(commands::ca::Arguments),
    Token(commands::token::Arguments),
    Dashboard(commands::dashboard::Arguments),
    Completions(commands::completions::Arguments),
    /// The sidecar: the same as the program weft-proxy; or, with config, metrics, drain or log-level, ask one
    Proxy(commands::proxy::Arguments),
    /// The control plane: the same as the program weft-control-plane
    #[command(disable_help_flag = true)]
    ControlPlane(PassedOn),
    #[command(hide = true)]
    Hold(run::HolderArguments),
    #[command(hide = true)]
    Tethered(tether::Arguments),
    /// An example service
    #[command(hide = true)]
    Example {
        #[command(subcommand)]
        example: Example,
    },
}

/// Arguments for another program, which reads them itself.
#[derive(Debug, clap::Args)]
pub(crate) struct PassedOn {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    arguments: Vec<OsString>,
}

/// The example services.
#[derive(Debug, Subcommand)]
pub(crate) enum Example {
    /// Four small services: web -> orders -> inventory and payments
    Shop {
        #[command(subcommand)]
        service: weft_shop::Service,
    },
}

/// A program that this one is too, and its arguments, the first of which is its name. Its options are not ours: that
/// we have one of the same name must not matter.
pub(crate) fn other_program(line: impl IntoIterator<Item = OsString>) -> Option<(Program, Vec<OsString>)> {
    let mut line = line.into_iter().skip(1).peekable();
    let (program, name) = match line.next()?.to_str()? {
        "proxy" if line.peek().and_then(|word| word.to_str()).is_some_and(is_question) => return None,
        "proxy" => (Program::Proxy, "weft proxy"),
        "control-plane" => (Program::ControlPlane, "weft control-plane"),
        _ => return None,
    };
    Some((program, std::iter::once(name.into()).chain(line).collect()))
}

fn is_question(word: &str) -> bool {
    commands::proxy::QUESTIONS.contains(&word)
}

/// The other programs that this one is too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// The sidecar.
    Proxy,
    /// The control plane.
    ControlPlane,
}

/// A length of time, such as `1h`, `20s` or `250ms`.
pub(crate) fn duration(text: &str) -> anyhow::Result<Duration> {
    let parsed: SignedDuration =
        text.parse().with_context(|| format!("{text:?} is no length of time such as 1h, 20s or 250ms"))?;
    parsed.try_into().with_context(|| format!("{text:?} is negative"))
}

/// `KEY=VALUE`.
pub(crate) fn key_value(text: &str) -> anyhow::Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => anyhow::bail!("{text:?} is not of the form KEY=VALUE"),
    }
}

/// A mistake on the command line, on one line.
pub(crate) fn usage_error(error: &clap::Error) -> String {
    let text = error.to_string();
    let said = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let lines = said.flat_map(str::lines).map(str::trim).filter(|line| !line.is_empty());
    let said = lines.collect::<Vec<_>>().join("; ");
    let said = said.strip_prefix("error: ").unwrap_or(&said);
    format!("{said} (see weft --help)")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn check(line: &str, expected: Result<&str, &str>) {
        let parsed = Arguments::try_parse_from(line.split(' '));
        match (parsed, expected) {
            (Ok(arguments), Ok(holds)) => {
                let shown = format!("{arguments:?}");
                assert!(shown.contains(holds), "{line}: {shown}");
            }
            (Err(error), Err(holds)) => {
                let shown = usage_error(&error);
                assert!(shown.contains(holds) && !shown.contains('\n'), "{line}: {shown}");
                assert_eq!(error.exit_code(), 2, "{line}");
            }
            (parsed, _) => panic!("{line}: {parsed:?}"),
        }
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn common_options_stand_before_and_after_the_command() {
        check("weft -o json status", Ok("output: Json"));
        check("weft status -o json -n shop", Ok("namespace: shop"));
        check("weft status -A", Ok("all_namespaces: true"));
        check("weft get service --control-plane https://h:1 --ca /ca.pem", Ok("https://h:1"));
    }

    #[test]
    fn other_programs_read_their_own_options() {
        let other = |line: &str| other_program(line.split(' ').map(OsString::from));
        let (program, arguments) = other("weft proxy run --ca x -o y").unwrap();
        assert_eq!((program, arguments.len()), (Program::Proxy, 6));
        assert_eq!(arguments[0], "weft proxy");
        let (program, arguments) = other("weft control-plane --help").unwrap();
        assert_eq!((program, arguments.len()), (Program::ControlPlane, 2));
        assert_eq!(other("weft proxy config orders-1"), None);
        assert_eq!(other("weft status"), None);
        assert_eq!(other("weft"), None);
    }

    #[test]
    fn mistakes_are_told_on_one_line() {
        check(
            "weft statsu",
            Err("unrecognized subcommand 'statsu'; tip: some similar subcommands exist: 'stat', 'status'"),
        );
        check("weft status --bogus", Err("unexpected argument '--bogus' found"));
        check("weft status -o xml", Err("possible values: table, wide, json, yaml"));
        check("weft status -n Not_A_Name", Err("lower-case"));
        check("weft traces --slower-than soon", Err("no length of time"));
        check("weft rollback latest", Err("invalid digit"));
        check("weft apply", Err("--file <FILE|DIR|->"));
    }

    #[test]
    fn lengths_of_time_are_written_with_units() {
        assert_eq!(duration("20s").unwrap(), Duration::from_secs(20));
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
        for bad in ["", "20", "-1s", "soon", "1y"] {
            assert!(duration(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_have_a_key_and_a_value() {
        assert_eq!(key_value("a=b=c").unwrap(), ("a".to_owned(), "b=c".to_owned()));
        assert_eq!(key_value("a=").unwrap(), ("a".to_owned(), String::new()));
        assert!(key_value("a").is_err());
        assert!(key_value("=b").is_err());
    }
}
