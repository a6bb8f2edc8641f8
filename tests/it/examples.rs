//! The examples do what their READMEs say.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_tests::{Process, program};

use crate::weft_for_everyone;

/// Runs an example's script; what it printed. None, loudly, where what it needs is not installed.
fn run(name: &str) -> Option<String> {
    let _beside = weft_tests::beside_others();
    program(&["python3"])?;
    program(&["curl"])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).join("run.sh");
    let folder = tempfile::Builder::new().prefix("weft-example-").tempdir().expect("a folder");
    let mut command = Command::new(script);
    command.env("WEFT", weft_for_everyone()).env("XDG_RUNTIME_DIR", folder.path()).env("HOME", folder.path());
    command.env_remove("WEFT_CONTROL_PLANE").current_dir(folder.path()).stdin(Stdio::null());
    let mut process = Process::start(command, &folder.path().join("output"), Command::spawn);
    let status = process.wait(Duration::from_secs(90));
    let said = process.output();
    assert!(status.success(), "{name}: {status}\n{said}");
    Some(said)
}

#[test]
fn circuit_breaker() {
    let Some(said) = run("circuit-breaker") else { return };
    for line in ["without: ", "with: 37 x 200", "with: 3 x 500", "endpoint=\"\"} 0"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn failover() {
    let Some(said) = run("failover") else { return };
    assert!(said.contains("one is sick: 20 x two"), "{said}");
    for (when, who) in
        [("both work", "one"), ("both work", "two"), ("well again", "one"), ("well again", "two")]
    {
        assert!(said.lines().any(|line| line.contains(when) && line.ends_with(who)), "{when}, {who}: {said}");
    }
    for line in
        ["comes first: 20 x one", "that comes first, is sick: 20 x two", "comes first again: 20 x one"]
    {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn retries() {
    let Some(said) = run("retries") else { return };
    for line in [
        "without, GET: 20 x 503",
        "with, GET: 30 x 200",
        "with, POST: 10 x 200",
        "with, POST: 20 x 503",
        "all fail, GET: 100 x 503",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let sent = said.lines().find_map(|line| line.strip_prefix("all fail: ")?.split(' ').next()?.parse().ok());
    // Each of the sidecar's workers rounds its own share down.
    assert!(sent.is_some_and(|sent: u32| (105..=120).contains(&sent)), "{said}");
}

#[test]
fn rate_limit() {
    let Some(said) = run("rate-limit") else { return };
    for line in ["without: 10 x 200", "with: 5 x 200", "with: 5 x 429", "retry-after: ", "guest: 1 x 200"] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[test]
fn jwt() {
    let Some(said) = run("jwt") else { return };
    for line in [
        "nobody /: 200 good",
        "nobody /: 401",
        "bob /: 200 good",
        "bob /admin: 403",
        "ann /admin: 200 next",
        "liar /: 401",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

/// The number that stands behind these words; 0 where there are none.
fn number(said: &str, after: &str) -> u32 {
    let rest = said.split_once(after).map_or("", |(_, rest)| rest);
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or_default()
}

#[test]
fn canary() {
    let Some(said) = run("canary") else { return };
    let parts: Vec<_> = said.split("of 20").collect();
    let [_, everyone, testers, done] = parts.as_slice() else { panic!("{said}") };
    let (one, two) = (number(everyone, "v1: "), number(everyone, "v2: "));
    // Five standard deviations.
    assert!(one + two == 200 && two.abs_diff(20) < 21, "{said}");
    for part in [testers, done] {
        assert!(part.contains("v2: 20") && !part.contains("v1:"), "{said}");
    }
}

#[test]
fn fault_injection() {
    let Some(said) = run("fault-injection") else { return };
    for line in [
        "as ever:         200 - fast",
        "x-chaos: slow:   200 - slow",
        "x-chaos: fail:   503 fault-injected fast",
        "without a fault: 200 - fast",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
}

#[test]
fn guestbook() {
    let (Some(_), Some(_)) = (program(&["psql"]), program(&["initdb"])) else { return };
    let Some(said) = run("guestbook") else { return };
    // Which copy answers is for the balancer to say.
    assert!(said.contains("visitor | visitor 8, welcomed by copy "), "{said}");
    assert!(said.contains("visitor | the database is for web alone"), "{said}");
}

#[test]
fn mirror() {
    let Some(said) = run("mirror") else { return };
    assert!(said.contains("callers saw 50 times 200"), "{said}");
    assert_eq!(number(&said, "the next version was asked "), 50, "{said}");
}
