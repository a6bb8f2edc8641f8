//! Paths and hosts: what holds for every one of them, and against servers that read them each in their own way.

use proptest::prelude::*;
use weft_core::host::{Host, same_host};
use weft_core::path::{MAX_TARGET, Path};

/// What paths are made of that servers disagree about.
fn paths() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "/", "/", "/", "a", "b", "admin", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "%5C", "\\", ";",
        "%3b", "%3B", ";x=y", "//", "%61", "%41", "%25", "%252e", "%252f", "%21", "!", "|", "%7c", "%c0%ae",
        "é", "%C3%A9", "%0a", "%20", "~",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// One of the servers there are: what it does to a path before it looks for what the path names.
#[derive(Debug, Clone, Copy)]
struct Server {
    parameters: Parameters,
    decodes_separators: bool,
    backslash_separates: bool,
    merges: Step,
    resolves: Step,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Parameters {
    Data,
    GoBeforeDecoding,
    GoAfterDecoding,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    First,
    Second,
    Never,
}

fn servers() -> Vec<Server> {
    let mut servers = Vec::new();
    for parameters in [Parameters::Data, Parameters::GoBeforeDecoding, Parameters::GoAfterDecoding] {
        for (merges, resolves) in [
            (Step::Never, Step::Never),
            (Step::First, Step::Second),
            (Step::Second, Step::First),
            (Step::First, Step::Never),
            (Step::Never, Step::First),
        ] {
            for bits in 0..4 {
                let (decodes_separators, backslash_separates) = (bits & 1 != 0, bits & 2 != 0);
                servers.push(Server {
                    parameters,
                    decodes_separators,
                    backslash_separates,
                    merges,
                    resolves,
                });
            }
        }
    }
    servers
}

impl Server {
    /// The path that the server looks up, its data encoded so that it can be read as a path again.
    fn sees(self, path: &str) -> String {
        let mut segments: Vec<String> = path.split('/').skip(1).map(str::to_owned).collect();
        if self.parameters == Parameters::GoBeforeDecoding {
            segments.iter_mut().for_each(|segment| cut(segment, &[";"]));
        }
        let mut text = segments.join("/");
        if self.backslash_separates {
            text = text.replace('\\', "/");
        }
        if self.decodes_separators {
            text = text.replace("%2F", "/").replace("%5C", if self.backslash_separates { "/" } else { "\\" });
        }
        segments = text.split('/').map(str::to_owned).collect();
        if self.parameters == Parameters::GoAfterDecoding {
            segments.iter_mut().for_each(|segment| cut(segment, &[";", "%3B"]));
        }
        for step in [Step::First, Step::Second] {
            if self.merges == step {
                merge(&mut segments);
            }
            if self.resolves == step {
                resolve(&mut segments);
            }
        }
        format!("/{}", segments.join("/"))
    }
}

fn cut(segment: &mut String, at: &[&str]) {
    if let Some(at) = at.iter().filter_map(|mark| segment.find(mark)).min() {
        segment.truncate(at);
    }
}

fn merge(segments: &mut Vec<String>) {
    let last = segments.len() - 1;
    let mut place = 0..;
    segments.retain(|segment| place.next() == Some(last) || !segment.is_empty());
}

/// As RFC 3986 section 5.2.4 has it: what leads above the root stays at it.
fn resolve(segments: &mut Vec<String>) {
    let mut resolved: Vec<String> = Vec::new();
    let count = segments.len();
    for (place, segment) in segments.drain(..).enumerate() {
        let dots = matches!(segment.as_str(), "." | "..");
        if segment == ".." {
            resolved.pop();
        }
        if !dots {
            resolved.push(segment);
        } else if place + 1 == count {
            resolved.push(String::new());
        }
    }
    *segments = resolved;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// The property that policies stand on: whatever a server makes of what it is sent, its path and the one that was
    /// decided on are the same. So no spelling leads to a path that is denied.
    #[test]
    fn no_server_sees_another_path_than_was_decided_on(target in paths()) {
        let Ok(path) = Path::parse(target.as_bytes()) else { return Ok(()) };
        let forwarded = std::str::from_utf8(path.forwarded()).unwrap();
        for server in servers() {
            let seen = server.sees(forwarded);
            let read = Path::parse(seen.as_bytes());
            prop_assert_eq!(read.as_ref().map(Path::matched), Ok(path.matched()), "{:?} {} {}", server, target, seen);
        }
    }

    #[test]
    fn normalising_twice_is_normalising_once(target in paths(), query in "(\\?[a-z%/.;?]{0,8})?") {
        let target = format!("{target}{query}");
        let Ok(path) = Path::parse(target.as_bytes()) else { return Ok(()) };
        let again = Path::parse(path.forwarded()).unwrap();
        prop_assert!(again.is_as_received());
        prop_assert_eq!((again.matched(), again.literal()), (path.matched(), path.literal()));
        prop_assert_eq!(path.query(), query.strip_prefix('?').map(str::as_bytes));
        let matched = Path::parse(path.matched().as_bytes()).unwrap();
        prop_assert_eq!((matched.matched(), matched.literal()), (path.matched(), path.matched()));
        let literal = Path::parse(path.literal().as_bytes()).unwrap();
        prop_assert_eq!((literal.matched(), literal.literal()), (path.matched(), path.literal()));
    }

    /// What is forwarded is what RFC 3986 says is equivalent, by another way of working it out.
    #[test]
    fn what_is_forwarded_is_what_the_standard_calls_equivalent(target in paths()) {
        let Ok(path) = Path::parse(target.as_bytes()) else { return Ok(()) };
        let decoded = [("%2e", "."), ("%2E", "."), ("%61", "a"), ("%41", "A")]
            .iter()
            .fold(target.clone(), |text, (escape, plain)| text.replace(escape, plain));
        let upper = [("%2f", "%2F"), ("%5c", "%5C"), ("%3b", "%3B"), ("%7c", "%7C"), ("%c0%ae", "%C0%AE"), ("%0a", "%0A")]
            .iter()
            .fold(decoded, |text, (lower, upper)| text.replace(lower, upper));
        let mut segments: Vec<String> = upper.split('/').skip(1).map(str::to_owned).collect();
        for segment in segments.iter_mut().filter(|segment| segment.starts_with('.')) {
            let mut name = segment.clone();
            cut(&mut name, &[";"]);
            if matches!(name.as_str(), "." | "..") {
                *segment = name;
            }
        }
        resolve(&mut segments);
        prop_assert_eq!(String::from_utf8_lossy(path.forwarded()), format!("/{}", segments.join("/")));
    }

    #[test]
    fn any_bytes_are_read_or_refused(target in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(path) = Path::parse(&target) {
            prop_assert!(path.matched().starts_with('/') && path.matched().is_ascii());
            prop_assert!(path.literal().starts_with('/') && path.literal().is_ascii());
            prop_assert!(path.forwarded().len() <= target.len() && target.len() <= MAX_TARGET);
        }
    }

    #[test]
    fn a_host_is_the_same_twice(text in "[a-zA-Z0-9._:\\[\\]-]{0,20}") {
        let Ok(host) = Host::parse(text.as_bytes()) else { return Ok(()) };
        let written = host.port().map_or_else(|| host.name().to_owned(), |port| format!("{}:{port}", host.name()));
        let again = Host::parse(written.as_bytes()).unwrap();
        prop_assert_eq!(&again, &host);
        prop_assert!(same_host(&again, &host));
        prop_assert!(!host.name().bytes().any(|byte| byte.is_ascii_uppercase()));
    }
}
