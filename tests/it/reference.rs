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
    "status",
    "check",
    "explain",
    "traces",
    "trace",
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
