//! The rules of a policy, with an index once they are asked: which of them may be about a call is found without looking at the others,
//! by who calls and by how the path begins. A rule that is left out is surely not about the call.

use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::OnceLock;

use super::{AccessRule, PathPattern, PathSegment, QualifiedName, TextPattern};

/// With fewer rules it is faster to look at each.
const FEW: usize = 8;

/// Segments that a path's beginning is looked up by, at most.
const DEEPEST: usize = 4;

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
}

/// The numbers of rules, by how the path begins; by nothing: it may be about any path.
type ByPath = HashMap<Box<str>, Vec<usize>>;

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
            let beginnings = beginnings(rule);
            for beginning in &beginnings {
                let depth = depth(beginning);
                if !index.depths.contains(&depth) {
                    index.depths.push(depth);
                }
            }
            let add = |by_path: &mut ByPath| {
                for beginning in &beginnings {
                    by_path.entry(beginning.clone()).or_default().push(number);
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
        let begun = move |by_path: &'a ByPath| {
            let beginnings = self.depths.iter().flat_map(move |depth| {
                paths.into_iter().flatten().filter_map(move |path| beginning_of(path, *depth))
            });
            beginnings.filter_map(move |beginning| by_path.get(beginning)).flatten().copied()
        };
        [Some(&self.of_anyone), named].into_iter().flatten().flat_map(begun)
    }
}

/// The callers that a rule is about, where it names all of them.
fn callers(rule: &AccessRule) -> Option<BTreeSet<&QualifiedName>> {
    let names_callers = rule.from.iter().all(|from| !from.service_accounts.one_of.is_empty());
    let named = rule.from.iter().flat_map(|from| &from.service_accounts.one_of);
    (names_callers && !rule.from.is_empty()).then(|| named.collect())
}

/// How the paths begin that a rule is about; nothing among them: it may be about any.
fn beginnings(rule: &AccessRule) -> Vec<Box<str>> {
    let names_paths = rule.to.iter().all(|to| !to.paths.one_of.is_empty());
    if rule.to.is_empty() || !names_paths {
        return vec!["".into()];
    }
    let mut found: Vec<Box<str>> = rule.to.iter().flat_map(|to| &to.paths.one_of).map(beginning).collect();
    found.sort();
    found.dedup();
    found
}

/// The whole segments that every path begins with that a pattern is about.
fn beginning(pattern: &PathPattern) -> Box<str> {
    let whole = match pattern {
        PathPattern::Text(TextPattern::Exact(path)) => path.clone(),
        // What follows the last slash may go on.
        PathPattern::Text(TextPattern::Prefix(path)) => {
            path.rsplit_once('/').map(|(whole, _)| whole.to_owned()).unwrap_or_default()
        }
        PathPattern::Text(TextPattern::Suffix(_)) => String::new(),
        PathPattern::Template(segments) => {
            let texts = segments.iter().map_while(|segment| match segment {
                PathSegment::Exact(text) => Some(text),
                PathSegment::One | PathSegment::Rest => None,
            });
            texts.fold(String::new(), |path, text| path + "/" + text)
        }
    };
    beginning_of(&whole, depth(&whole).min(DEEPEST)).unwrap_or_default().into()
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
    fn paths_begin_with_whole_segments() {
        for (pattern, expected) in [
            ("/orders", "/orders"),
            ("/orders/*", "/orders"),
            ("/orders*", ""),
            ("/a/b/c*", "/a/b"),
            ("*.png", ""),
            ("*", ""),
            ("/", "/"),
            ("/a/{*}/c", "/a"),
            ("/a/{**}", "/a"),
            ("/{**}", ""),
            ("/a/b/c/d/e/f", "/a/b/c/d"),
        ] {
            assert_eq!(&*beginning(&pattern.parse().unwrap()), expected, "{pattern}");
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
