//! The house style, as far as a program can check it: who may depend on whom, how long a file may be, what every file
//! says of itself, and which versions of dependencies are known to be unsafe.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which of our crates each crate may use. A new edge is a change of the architecture: argue for it there first.
const EDGES: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("proto", &["weft-core"]),
    ("certs", &["weft-core"]),
    ("runtime", &[]),
    ("pods", &[]),
    ("sys", &[]),
    ("proxy", &["weft-core", "weft-proto", "weft-certs", "weft-runtime", "weft-pods", "weft-sys"]),
    ("control-plane", &["weft-core", "weft-proto", "weft-certs", "weft-runtime"]),
    (
        "cli",
        &[
            "weft-core",
            "weft-proto",
            "weft-certs",
            "weft-runtime",
            "weft-pods",
            "weft-proxy",
            "weft-control-plane",
            "weft-shop",
        ],
    ),
    ("examples/shop", &["weft-runtime"]),
    ("tests", &["weft", "weft-pods"]),
];

/// Lines a source file may have, its tests not counted.
const LONGEST_FILE: usize = 500;

/// Files that are longer, each with its reason. The list may only shrink.
const LONGER_FILES: &[(&str, &str)] = &[];

/// The oldest release of a crate without a published advisory (RUSTSEC, CVE) that concerns us. No network is asked, so
/// the check runs anywhere; a new advisory is a new line here.
const OLDEST_SAFE: &[(&str, &[u64; 3], &str)] = &[
    ("aws-lc-sys", &[0, 39, 0], "advisories of early 2026"),
    ("bytes", &[1, 11, 1], "overflow in reserve"),
    (
        "h2",
        &[0, 4, 16],
        "RUSTSEC-2026-0258: unbounded empty DATA frames; before that CONTINUATION and reset floods",
    ),
    ("hickory-proto", &[0, 26, 1], "quadratic encoding"),
    ("quinn-proto", &[0, 11, 15], "panic on peer input"),
    ("ring", &[0, 17, 12], "panic in AES"),
    ("rustls", &[0, 23, 18], "panic in Acceptor on a fragmented ClientHello"),
    ("rustls-webpki", &[0, 103, 13], "panic in CRL parsing, name constraints"),
    ("tokio", &[1, 44, 2], "unsound broadcast channel"),
    ("tonic", &[0, 12, 3], "accept loop ends on an error"),
];

/// Crates that nobody keeps any more, and what stands in their place.
const ABANDONED: &[(&str, &str)] = &[("rustls-pemfile", "rustls-pki-types"), ("serde_yaml", "saphyr-parser")];

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let mut wrong = Vec::new();
    for (folder, allowed) in EDGES {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        let used = manifest.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| {
            (*name == "weft" || name.starts_with("weft-"))
                && !manifest.contains(&format!("name = \"{name}\""))
        });
        wrong.extend(used.filter(|name| !allowed.contains(name)).map(|name| format!("{folder} uses {name}")));
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_member_is_in_the_table_of_edges() {
    let manifest = read(&root().join("Cargo.toml"));
    let members = manifest.lines().find(|line| line.starts_with("members")).expect("a members line");
    let listed: BTreeSet<_> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(listed, EDGES.iter().map(|(folder, _)| *folder).collect());
}

#[test]
fn versions_and_lints_stand_in_the_root_manifest_only() {
    let mut wrong = Vec::new();
    for (folder, _) in EDGES {
        let manifest = read(&root().join(folder).join("Cargo.toml"));
        if !manifest.contains("[lints") {
            wrong.push(format!("{folder}/Cargo.toml has no [lints] table"));
        }
        let mut in_dependencies = false;
        for line in manifest.lines() {
            if line.starts_with('[') {
                in_dependencies = line.contains("dependencies");
            } else if in_dependencies && line.contains('=') && !line.contains("workspace = true") {
                wrong.push(format!("{folder}/Cargo.toml: {line}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for path in sources() {
        let text = read(&path);
        let name = relative(&path);
        if !text.starts_with("//!") {
            wrong.push(format!("{name} does not open with //! and its purpose"));
        }
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
        let excused = LONGER_FILES.iter().any(|(file, _)| *file == name);
        if lines > LONGEST_FILE && !excused && !name.contains("tests/") {
            wrong.push(format!("{name} has {lines} lines without its tests, {LONGEST_FILE} is the limit"));
        }
        if lines <= LONGEST_FILE && excused {
            wrong.push(format!("{name} is short enough now: take it off the list"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn nothing_is_left_for_later_in_the_sources() {
    // Put together here so that this file does not accuse itself.
    let banned = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["#[ign", "ore"],
        ["#[all", "ow("],
    ];
    let mut wrong = Vec::new();
    for path in sources() {
        for (number, line) in read(&path).lines().enumerate() {
            for word in banned.iter().map(|parts| parts.concat()).filter(|word| line.contains(word.as_str()))
            {
                wrong.push(format!("{}:{}: {word}", relative(&path), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn locked_dependencies_have_no_known_advisory() {
    let locked = locked_packages();
    let mut wrong = Vec::new();
    for (name, oldest, advisory) in OLDEST_SAFE {
        for version in locked.get(*name).into_iter().flatten().filter(|version| version < oldest) {
            wrong.push(format!("{name} {version:?} is older than {oldest:?}: {advisory}"));
        }
    }
    for (name, instead) in ABANDONED {
        if locked.contains_key(*name) {
            wrong.push(format!("{name} is abandoned: use {instead}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_dependency_comes_from_the_registry() {
    let lock = read(&root().join("Cargo.lock"));
    let foreign: Vec<_> =
        lock.lines().filter(|l| l.starts_with("source = ") && !l.contains("registry+")).collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

#[test]
fn links_in_the_documents_lead_somewhere() {
    let mut wrong = Vec::new();
    for document in documents() {
        let folder = document.parent().expect("a document lies in a folder").to_owned();
        for target in read(&document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !path.contains(' ') && !folder.join(path).exists()
            {
                wrong.push(format!("{}: {target}", relative(&document)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).expect("a file of the workspace").display().to_string()
}

/// Every Rust file of ours.
fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (folder, _) in EDGES {
        walk(&root().join(folder), &mut found, "rs");
    }
    assert!(found.len() > 50, "the sources are there");
    found
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(&root().join("docs"), &mut found, "md");
    walk(&root().join("examples"), &mut found, "md");
    walk(&root().join("bench"), &mut found, "md");
    let here = fs::read_dir(root()).expect("the workspace").filter_map(Result::ok).map(|entry| entry.path());
    found.extend(here.filter(|path| path.extension().is_some_and(|extension| extension == "md")));
    found
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>, extension: &str) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, found, extension);
            }
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// Name -> versions, of Cargo.lock.
fn locked_packages() -> BTreeMap<String, Vec<[u64; 3]>> {
    let lock = read(&root().join("Cargo.lock"));
    let mut packages: BTreeMap<String, Vec<[u64; 3]>> = BTreeMap::new();
    let mut name = String::new();
    for line in lock.lines() {
        if let Some(value) = line.strip_prefix("name = ") {
            value.trim_matches('"').clone_into(&mut name);
        } else if let Some(value) = line.strip_prefix("version = ") {
            let numbers: Vec<u64> =
                value.split(['"', '.', '-', '+']).filter_map(|part| part.parse().ok()).collect();
            if let [major, minor, patch, ..] = numbers[..] {
                packages.entry(name.clone()).or_default().push([major, minor, patch]);
            }
        }
    }
    assert!(packages.len() > 100, "Cargo.lock was read");
    packages
}
