//! The reference of commands is what the commands say of themselves. `UPDATE=1` writes it anew.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::weft;

const COMMANDS: &[&str] = &[
    "",
    "demo",
    "run",
    "systemd",
    "inject",
    "uninject",
    "install",
    "upgrade",
    "uninstall",
    "crds",
    "apply",
    "get",
    "delete",
    "diff",
    "history",
    "rollback",
    "backup",
    "restore",
    "status",
    "endpoints",
    "stat",
    "top",
    "tap",
    "check",
    "explain",
    "traces",
    "trace",
    "why",
    "policy test",
    "identity",
    "identity revoke",
    "identity fetch",
    "ca status",
    "ca rotate",
    "token create",
    "token list",
    "token revoke",
    "dashboard",
    "completions",
    "proxy",
    "proxy run",
    "proxy intercept up",
    "proxy intercept down",
    "proxy intercept show",
    "proxy await",
    "proxy pause",
    "proxy shutdown",
    "proxy config",
    "proxy metrics",
    "proxy drain",
    "proxy log-level",
    "control-plane",
];

#[test]
fn the_reference_of_commands_is_fresh() {
    let mut text = String::from(
        "# Commands\n\nWhat each says of itself with `--help`. Written by `UPDATE=1 cargo test -p weft-tests reference`.\n",
    );
    for command in COMMANDS {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let output = Command::new(weft()).args(&arguments).env_clear().output().expect("weft starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        let help = String::from_utf8(output.stdout).expect("text").replace("weft-under-test", "weft");
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        text.push_str(&format!(
            "\n## {}\n\n```\n{}\n```\n",
            format!("weft {command}").trim(),
            help.join("\n").trim_end()
        ));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .join("docs/reference/commands.md");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &text).expect("the reference");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == text,
        "docs/reference/commands.md is not fresh: UPDATE=1 cargo test -p weft-tests reference"
    );
}

#[test]
fn every_error_has_a_section_and_advice() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let read =
        |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let source = read("proxy/src/failure.rs");
    // The one table: `Self::NoEndpoints => ("no-endpoints", 503, 14),`
    let codes: Vec<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.split_once("=> (\"")?.1.split_once('"'))
        .map(|(code, _)| code)
        .collect();
    assert!(codes.len() >= 19, "{codes:?}");
    let (page, advice) = (read("docs/errors.md"), read("core/src/why.rs"));
    for code in &codes {
        let section = page.split("\n## ").find(|section| section.lines().next() == Some(*code));
        let section = section.unwrap_or_else(|| panic!("docs/errors.md has no section {code}"));
        for part in ["- **Likely**: ", "- **See**: ", "- **Do**: "] {
            assert!(section.contains(part), "docs/errors.md, {code}: {part}");
        }
        assert!(page.contains(&format!("| [{code}](#{code}) |")), "docs/errors.md: the table lacks {code}");
        assert!(advice.contains(&format!("\"{code}\",")), "core/src/why.rs says nothing of {code}");
    }
    assert_eq!(page.matches("\n## ").count(), codes.len(), "docs/errors.md has sections of no error");
}
