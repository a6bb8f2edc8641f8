//! The rules of a policy, with an index once they are asked: which of them may be about a call is found without looking at the others,
//! by who calls and by how the path begins or ends. A rule that is left out is surely not about the call.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::OnceLock;

use super::{AccessRule, PathPattern, PathSegment, QualifiedName, TextPattern};

/// With fewer rules it is faster to look at each.
const FEW: usize = 8;

/// Segments that a path's beginning is looked up by, at most.
const DEEPEST: usize = 4;

/// So many of a path's last bytes it is looked up by, where that is how a pattern ends: as many of these as it has.
const ENDINGS: [usize; 20] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64];

/// The rules of a policy.
#[derive(Debug, Default)]
pub struct AccessRules {
    list: Vec<AccessRule>,
    /// Made when it is first needed: those who only pass rules on never do.
    index: OnceLock<Index>,
}

#[derive(Debug, Default)]
struct Index {
    /// The rules that may be about any caller.
    of_anyone: ByPath,
    /// Those that name callers, by namespace and account.
    by_caller: HashMap<Box<str>, HashMap<Box<str>, ByPath>>,
    /// How many segments there are beginnings of.
    depths: Vec<usize>,
    /// How many bytes there are endings of.
    lengths: Vec<usize>,
}

/// The numbers of rules, by one end of the path.
#[derive(Debug, Default)]
struct ByPath {
    first: HashMap<Box<str>, Vec<usize>>,
    last: HashMap<Box<[u8]>, Vec<usize>>,
}

/// What every path has that a pattern is about.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// These whole segments first; nothing: it may be about any path.
    First(Box<str>),
    /// These bytes last.
    Last(Box<[u8]>),
}

impl AccessRules {
    /// Whether there are so many that it is worth [finding](Self::candidates) those that are needed.
    pub(crate) fn are_many(&self) -> bool {
        self.list.len() >= FEW
    }

    /// The rules that may be about a call by this caller (namespace and account), of a path that is read as each of these; some
    /// perhaps twice.
    pub(crate) fn candidates<'a>(
        &'a self,
        caller: Option<(&str, &str)>,
        paths: [&'a str; 2],
    ) -> impl Iterator<Item = &'a AccessRule> {
        let index = self.index.get_or_init(|| Index::of(&self.list));
        index.find(caller, paths).filter_map(move |number| self.list.get(number))
    }
}

impl Index {
    fn of(rules: &[AccessRule]) -> Self {
        let mut index = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let ends = ends(rule);
            for end in &ends {
                let (known, measure) = match end {
                    End::First(first) => (&mut index.depths, depth(first)),
                    End::Last(last) => (&mut index.lengths, last.len()),
                };
                if !known.contains(&measure) {
                    known.push(measure);
                }
            }
            let add = |by_path: &mut ByPath| {
                for end in &ends {
                    match end {
                        End::First(first) => by_path.first.entry(first.clone()).or_default().push(number),
                        End::Last(last) => by_path.last.entry(last.clone()).or_default().push(number),
                    }
                }
            };
            match callers(rule) {
                None => add(&mut index.of_anyone),
                Some(callers) => {
                    for QualifiedName { namespace, name } in callers {
                        let within = index.by_caller.entry(namespace.as_str().into()).or_default();
                        add(within.entry(name.as_str().into()).or_default());
                    }
                }
            }
        }
        index
    }

    fn find<'a>(&'a self, caller: Option<(&str, &str)>, paths: [&'a str; 2]) -> impl Iterator<Item = usize> {
        let named = caller.and_then(|(namespace, name)| self.by_caller.get(namespace)?.get(name));
        let [path, other] = paths;
        let paths = [Some(path), (path != other).then_some(other)];
        let of = move |by_path: &'a ByPath| {
            let each = move || paths.into_iter().flatten();
            let begun = self.depths.iter().flat_map(move |depth| {
                each().filter_map(move |path| by_path.first.get(beginning_of(path, *depth)?))
            });
            let ended = self.lengths.iter().flat_map(move |length| {
                each().filter_map(move |path| by_path.last.get(ending_of(path, *length)?))
            });
            begun.chain(ended).flatten().copied()
        };
        [Some(&self.of_anyone), named].into_iter().flatten().flat_map(of)
    }
}

/// The callers that a rule is about, where it names all of them.
fn callers(rule: &AccessRule) -> Option<BTreeSet<&QualifiedName>> {
    let names_callers = rule.from.iter().all(|from| !from.service_accounts.one_of.is_empty());
    let named = rule.from.iter().flat_map(|from| &from.service_accounts.one_of);
    (names_callers && !rule.from.is_empty()).then(|| named.collect())
}

/// What the paths have that a rule is about: one of these.
fn ends(rule: &AccessRule) -> Vec<End> {
    let names_paths = rule.to.iter().all(|to| !to.paths.one_of.is_empty());
    if rule.to.is_empty() || !names_paths {
        return vec![End::First("".into())];
    }
    let mut found: Vec<End> = rule.to.iter().flat_map(|to| &to.paths.one_of).map(end).collect();
    found.sort();
    found.dedup();
    found
}

/// The whole segments that every path begins with that a pattern is about; where it says nothing of them, how they end.
fn end(pattern: &PathPattern) -> End {
    let (first, last) = match pattern {
        PathPattern::Text(TextPattern::Exact(path)) => (path.clone(), String::new()),
        // What follows the last slash may go on.
        PathPattern::Text(TextPattern::Prefix(path)) => {
            (path.rsplit_once('/').map(|(whole, _)| whole.to_owned()).unwrap_or_default(), String::new())
        }
        PathPattern::Text(TextPattern::Suffix(ending)) => (String::new(), ending.clone()),
        PathPattern::Template(segments) => (joined(segments.iter()), joined_backwards(segments)),
    };
    let first = beginning_of(&first, depth(&first).min(DEEPEST)).unwrap_or_default();
    if first.is_empty() && !last.is_empty() {
        let length = ENDINGS.into_iter().rev().find(|length| *length <= last.len());
        if let Some(last) = length.and_then(|length| ending_of(&last, length)) {
            return End::Last(last.into());
        }
    }
    End::First(first.into())
}

/// The segments that are said before any that is left open.
fn joined<'a>(segments: impl Iterator<Item = &'a PathSegment>) -> String {
    texts(segments).fold(String::new(), |path, text| path + "/" + text)
}

/// Those that are said after the last that is left open.
fn joined_backwards(segments: &[PathSegment]) -> String {
    texts(segments.iter().rev()).fold(String::new(), |path, text| format!("/{text}{path}"))
}

fn texts<'a>(segments: impl Iterator<Item = &'a PathSegment>) -> impl Iterator<Item = &'a str> {
    segments.map_while(|segment| match segment {
        PathSegment::Exact(text) => Some(text.as_str()),
        PathSegment::One | PathSegment::Rest => None,
    })
}

/// The last bytes of a path, so many; none where it has fewer.
fn ending_of(path: &str, length: usize) -> Option<&[u8]> {
    path.as_bytes().get(path.len().checked_sub(length)?..)
}

/// The segments of a path: `/a/b` has two, `/` has one, which is empty.
fn depth(path: &str) -> usize {
    path.bytes().filter(|byte| *byte == b'/').count()
}

/// The first segments of a path, so many; none where it has fewer.
fn beginning_of(path: &str, depth: usize) -> Option<&str> {
    let mut slashes = path.bytes().enumerate().filter(|(_, byte)| *byte == b'/').map(|(at, _)| at);
    match slashes.nth(depth) {
        Some(end) => path.get(..end),
        None => (self::depth(path) == depth).then_some(path),
    }
}

impl Deref for AccessRules {
    type Target = [AccessRule];

    fn deref(&self) -> &[AccessRule] {
        &self.list
    }
}

impl From<Vec<AccessRule>> for AccessRules {
    fn from(list: Vec<AccessRule>) -> Self {
        Self { list, index: OnceLock::new() }
    }
}

impl Clone for AccessRules {
    fn clone(&self) -> Self {
        self.list.clone().into()
    }
}

impl PartialEq for AccessRules {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for AccessRules {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_found_by_its_first_segments_or_else_by_its_last_bytes() {
        for (pattern, first, last) in [
            ("/orders", "/orders", ""),
            ("/orders/*", "/orders", ""),
            ("/orders*", "", ""),
            ("/a/b/c*", "/a/b", ""),
            ("*.png", "", ".png"),
            ("*/item-1/detail", "", "/item-1/detail"),
            ("*", "", ""),
            ("/", "/", ""),
            ("/a/{*}/c", "/a", ""),
            ("/a/{**}", "/a", ""),
            ("/{**}", "", ""),
            ("/{*}/items", "", "/items"),
            ("/{*}/items/{*}", "", ""),
            ("/a/b/c/d/e/f", "/a/b/c/d", ""),
        ] {
            let rounded = ENDINGS.into_iter().rev().find(|length| *length <= last.len()).unwrap_or_default();
            let expected = match last {
                "" => End::First(first.into()),
                last => End::Last(ending_of(last, rounded).unwrap().into()),
            };
            assert_eq!(end(&pattern.parse().unwrap()), expected, "{pattern}");
        }
        for (path, depth, expected) in [
            ("/a/b", 0, Some("")),
            ("/a/b", 1, Some("/a")),
            ("/a/b", 2, Some("/a/b")),
            ("/a/b", 3, None),
            ("/a/", 2, Some("/a/")),
            ("/", 1, Some("/")),
        ] {
            assert_eq!(beginning_of(path, depth), expected, "{path} {depth}");
        }
    }
}
