//! `weft inject` and `weft uninject`, as people pipe them: valid for every Kubernetes of today, and back to the byte.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use weft_tests::python;

use crate::weft;

/// One of each kind of workload, as people write them, and what passes as it is.
const MANIFESTS: &str = include_str!("inject/workloads.yaml");

/// Runs a program with a text as its standard input.
pub(crate) fn piped(mut command: Command, text: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its standard input");
    let text = text.to_owned();
    let writer = std::thread::spawn(move || {
        // A program that refuses its arguments does not read.
        let _ = input.write_all(text.as_bytes());
    });
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the text was offered");
    output
}

pub(crate) fn run(arguments: &[&str], text: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(weft());
    command.args(arguments).env_clear();
    let output = piped(command, text);
    let utf8 = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), utf8(output.stdout), utf8(output.stderr))
}

#[test]
fn injected_manifests_are_valid_for_every_kubernetes_of_today_and_lead_back_to_the_byte() {
    for more in [&["inject"][..], &["inject", "-f", "-", "--set", "sidecar=container"]] {
        let (code, there, told) = run(more, MANIFESTS);
        assert_eq!(code, Some(0), "{told}");
        for workload in [
            "deployment/web",
            "statefulset/ledger",
            "daemonset/agent",
            "job/migrate",
            "cronjob/report",
            "pod/shell",
        ] {
            assert!(told.contains(&format!("{workload} injected\n")), "{told}");
        }
        assert!(told.contains("daemonset/node-exporter not injected: hostNetwork"), "{told}");
        assert_eq!(there.matches("weft-init").count(), 6, "{there}");
        assert_eq!(run(more, &there).1, there, "injecting twice is injecting once");
        let (code, back, told) = run(&["uninject"], &there);
        assert_eq!((code, back.as_str()), (Some(0), MANIFESTS), "{told}");
        assert!(told.contains("deployment/web uninjected\n"), "{told}");
        let Some(mut check) = python("kubernetes.py") else { continue };
        // A sidecar that is an init container is there by default since 1.29.
        check.args(["1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37"]);
        let checked = piped(check, &there);
        let wrong = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{wrong}{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn injected_compose_files_follow_the_specification_and_lead_back_to_the_byte() {
    // The validator takes aliases for host names of RFC 1123, which Compose does not.
    let shop = include_str!("../../core/src/inject/golden/shop.yaml").replace("db_copy", "db-copy");
    let example = include_str!("../../examples/compose/compose.yaml");
    for (file, services) in [(shop.as_str(), 4), (example, 4)] {
        let (code, there, told) = run(&["inject"], file);
        assert_eq!(code, Some(0), "{told}");
        assert_eq!(told.matches(" injected\n").count(), services, "{told}");
        let (code, back, told) = run(&["uninject"], &there);
        assert_eq!((code, back.as_str()), (Some(0), file), "{told}");
        assert!(told.contains("service/web uninjected\n"), "{told}");
        let Some(check) = python("compose.py") else { continue };
        let checked = piped(check, &there);
        let wrong = String::from_utf8_lossy(&checked.stdout);
        assert!(checked.status.success(), "{wrong}{}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn what_cannot_be_injected_prints_no_manifest_and_says_where_it_is_wrong() {
    let (code, out, told) = run(&["inject"], "kind: Pod\nmetadata: {name: p}\nspec:\n\tcontainers: []\n");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.contains("-:4:") && told.contains("indent with spaces"), "{told}");
    let wrong =
        MANIFESTS.replace("weft.mesh/skip-outbound-ports: \"25,465\"", "weft.mesh/skip-outbound-ports: smtp");
    let (code, out, told) = run(&["inject"], &wrong);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(told.contains("weft.mesh/skip-outbound-ports cannot be \"smtp\"; write ports"), "{told}");
    let (code, _, told) = run(&["inject", "--set", "image=x"], "");
    assert_eq!(code, Some(1));
    assert!(told.contains("there is no setting \"image\""), "{told}");
    let (code, _, told) = run(&["inject", "-f", "/nowhere.yaml"], "");
    assert_eq!(code, Some(1));
    assert!(told.contains("cannot read /nowhere.yaml"), "{told}");
}
