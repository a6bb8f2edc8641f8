//! The tables of docs/fidelity.md, docs/security.md and the scorecards in docs/reference name tests that exist, so that they cannot promise what nothing proves.

use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_table_of_fidelity_names_exists() {
    check("fidelity.md", 40);
}

#[test]
fn every_test_that_the_scorecard_of_security_names_exists() {
    check("security.md", 40);
}

#[test]
fn every_test_that_the_scorecard_of_promises_names_exists() {
    check("reference/security-scorecard.md", 40);
}

#[test]
fn every_test_that_the_scorecard_of_traffic_names_exists() {
    check("reference/traffic-scorecard.md", 100);
}

#[test]
fn every_test_that_the_scorecard_of_telemetry_names_exists() {
    check("reference/telemetry-scorecard.md", 80);
}

#[test]
fn every_test_that_the_scorecard_of_what_is_beside_apps_names_exists() {
    check("reference/beside-scorecard.md", 40);
}

#[test]
fn every_test_that_the_scorecard_of_the_control_plane_names_exists() {
    check("reference/control-plane-scorecard.md", 80);
}

fn check(document: &str, at_least: usize) {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("docs");
    let table = fs::read_to_string(docs.join(document)).expect("the table");
    let folder = docs.join(document).parent().expect("a folder").to_owned();
    let (mut wrong, mut named) = (Vec::new(), 0);
    for row in table.lines().filter(|line| line.starts_with('|')) {
        // [`module::test`](../path/to/module.rs)
        for link in row.split("[`").skip(1) {
            let Some((test, path)) =
                link.split_once("`](").and_then(|(test, rest)| Some((test, rest.split(')').next()?)))
            else {
                wrong.push(format!("not a link to a test: {link}"));
                continue;
            };
            named += 1;
            let name = test.rsplit("::").next().expect("a name");
            let source = fs::read_to_string(folder.join(path)).unwrap_or_default();
            let declared = source.find(&format!("fn {name}(")).is_some_and(|at| {
                let before: Vec<&str> = source[..at].lines().rev().take(4).collect();
                before.iter().any(|line| line.contains("test]") || line.contains("::test("))
            });
            // Or it is listed where tests run in a harness of their own.
            let listed = fs::read_to_string(folder.join(path).with_file_name("main.rs")).unwrap_or_default();
            let listed = source.contains(&format!("fn {name}()")) && listed.contains(&format!("{test},"));
            if !declared && !listed {
                wrong.push(format!("{test} is no test of {path}"));
            }
        }
        let empty = row.trim_end_matches('|').trim_end().ends_with('|');
        if empty {
            wrong.push(format!("nothing is said of how it is proven: {row}"));
        }
    }
    assert!(named > at_least, "the table was read: {named}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
