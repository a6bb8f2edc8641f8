//! Sidecars into a Compose file and out of it.
//!
//! Compose has no pods. So a service's network belongs to a container of its own, which only waits; the app, its sidecar and
//! what programs the interception join it. What the app said of its network moves there.
//!
//! What is added stands between two marks, and what no longer holds is made a comment where it stands: everything else
//! stays as it is, and taking the sidecars out again needs no more than the text.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde_json::{Map, Value as Json, json};

use super::annotations::{Annotation, Wishes};
use super::manifests::{Outcome, Rewritten, What};
use super::parts::{self, Parts};
use super::pod::NotInjected;
use super::{SIDECAR_UID, Settings, text};
use crate::manifest::{
    Dialect, Entry, Node, Note, Place, Problem, Sink, SourceFile, Value, documents, to_yaml,
};
use crate::model::Name;

/// What is between these lines is ours.
const BEGIN: &str = "# >>> weft";
const END: &str = "# <<< weft";
/// What stands before a line that no longer holds.
const MOVED: &str = "#weft# ";

/// What a service says of its network: its pod says it instead.
const NETWORK: [&str; 12] = [
    "ports",
    "expose",
    "networks",
    "hostname",
    "domainname",
    "extra_hosts",
    "dns",
    "dns_search",
    "dns_opt",
    "mac_address",
    "links",
    "external_links",
];

/// What of a service is about its network.
pub(super) fn network_keys() -> impl Iterator<Item = &'static str> {
    NETWORK.into_iter()
}

/// Whether a document is a Compose file's.
pub(super) fn is_compose(document: &Json) -> bool {
    document.get("services").is_some()
        && document.get("kind").is_none()
        && document.get("apiVersion").is_none()
}

/// Gives the services of a file without sidecars their sidecars.
pub(super) fn inject(file: SourceFile<'_>, settings: &Settings) -> Result<Rewritten, Vec<Problem>> {
    let sink = Sink::new(file.name);
    let nodes = documents(file.text, Dialect::Foreign, &sink);
    let mut rewritten = Rewritten { text: file.text.to_owned(), outcomes: Vec::new(), notes: Vec::new() };
    match nodes.as_slice() {
        [node] => {
            let work = Work { node, settings, sink: &sink, lines: Lines::of(file.text) };
            work.inject(&mut rewritten);
            if node.get("include").is_some() {
                let message =
                    "services of included files stay as they are: inject those files too".to_owned();
                rewritten.notes.push(Note { file: file.name.to_owned(), line: node.place.line, message });
            }
        }
        [_, second, ..] => sink.mistake(second.place, "a second document", "a Compose file is one document"),
        [] => {}
    }
    let (problems, _) = sink.into_parts();
    if problems.is_empty() { Ok(rewritten) } else { Err(problems) }
}

/// Takes out what is ours.
pub(super) fn remove(file: SourceFile<'_>) -> Rewritten {
    let (mut text, mut ours) = (String::new(), false);
    let mut outcomes = Vec::new();
    for line in file.text.split_inclusive('\n') {
        if line.starts_with(BEGIN) {
            ours = true;
        } else if line.starts_with(END) {
            ours = false;
            if !line.ends_with('\n') {
                // The line before what is ours had no end.
                let kept = text.trim_end_matches(['\r', '\n']).len();
                text.truncate(kept);
            }
        } else if ours {
            let name = line.trim().strip_suffix(':').and_then(|name| name.strip_suffix(parts::PROXY));
            let outcome =
                name.map(|name| Outcome { workload: format!("service/{name}"), what: What::Removed });
            if let Some(outcome) = outcome
                && !outcomes.contains(&outcome)
            {
                outcomes.push(outcome);
            }
        } else {
            text.push_str(line.strip_prefix(MOVED).unwrap_or(line));
        }
    }
    Rewritten { text, outcomes, notes: Vec::new() }
}

struct Work<'w> {
    node: &'w Node,
    settings: &'w Settings,
    sink: &'w Sink<'w>,
    lines: Lines<'w>,
}

impl Work<'_> {
    fn inject(&self, rewritten: &mut Rewritten) {
        let Some(services) = entry(self.node, "services") else { return };
        let Value::Map(entries) = &services.value.value else { return };
        let mut after = self.node.to_json();
        let mut edits = Edits::default();
        let mut parts = Parts::new(self.settings);
        for service in entries {
            let what = self.service(service, &mut after, &mut edits, &mut parts);
            rewritten
                .outcomes
                .extend(what.map(|what| Outcome { workload: format!("service/{}", service.key), what }));
        }
        if parts.is_empty() {
            return;
        }
        for name in parts.services().keys() {
            if let Some(taken) = entries.iter().find(|entry| entry.key == *name) {
                self.sink.mistake(
                    taken.place,
                    format!("{name:?} is a name that is ours"),
                    "rename this service",
                );
            }
        }
        // Beside the first service, which need not be there at the usual depth.
        let column = entries.first().map_or(3, |first| first.place.column);
        edits.put(index(services.place.line).saturating_add(1), column, &parts.services().clone().into());
        self.volumes(&parts, &mut edits);
        merge(&mut after, "services", parts.services());
        merge(&mut after, "volumes", parts.volumes());
        rewritten.text = self.lines.edited(&edits);
        let again = Sink::new("");
        let read = documents(&rewritten.text, Dialect::Foreign, &again);
        if read.first().map(Node::to_json) != Some(after) || read.len() != 1 {
            self.sink.mistake(
                services.place,
                "what is added cannot be placed in this file",
                "write its services and volumes in block style, one key a line",
            );
        }
    }

    fn service(
        &self,
        service: &Entry,
        after: &mut Json,
        edits: &mut Edits,
        parts: &mut Parts<'_>,
    ) -> Option<What> {
        let raw = service.value.to_json();
        let said = merged(&raw);
        let mistake = |message: String, hint: &str| self.sink.mistake(service.place, message, hint);
        let ours = ours(&said);
        let wishes = match Wishes::read(&ours) {
            Ok(wishes) => wishes,
            Err(bad) => {
                mistake(format!("services.{}: {bad}", service.key), "correct the service's labels");
                return None;
            }
        };
        if let Some(reason) = not_injected(&service.key, &said, &wishes) {
            return Some(What::Not(reason));
        }
        let Some(name) = mesh_name(&service.key) else {
            mistake(
                format!("services.{}: its name cannot be one of the mesh", service.key),
                "write letters, digits and inner '-', 63 at most",
            );
            return None;
        };
        let brought = NETWORK.iter().find(|key| said.get(**key).is_some() && raw.get(**key).is_none());
        if let Some(key) = brought {
            mistake(
                format!("services.{}: its {key} comes by a merge (<<)", service.key),
                "write it below the service itself",
            );
            return None;
        }
        if said.get("extends").is_some() {
            mistake(
                format!("services.{}: what extends brings cannot be seen here", service.key),
                "write it out",
            );
            return None;
        }
        if let Some(other) = self.sharer(&service.key) {
            self.sink.mistake(
                other.place,
                format!(
                    "services.{}: shares the network of {}, which becomes its pod's",
                    other.key, service.key
                ),
                "give one of them the label weft.mesh/inject: disabled",
            );
            return None;
        }
        parts.add(&service.key, &name, &said, &wishes);
        let in_place = self.is_in_place(service);
        // Written anew, merge keys are carried out.
        let mut own = if in_place { raw } else { said.clone() }.as_object().cloned().unwrap_or_default();
        let moved = NETWORK.into_iter().chain(["depends_on", "network_mode"]);
        let gone: Vec<&str> = moved.filter(|key| own.shift_remove(*key).is_some()).collect();
        let joined = Map::from_iter([
            ("network_mode".to_owned(), json!(format!("service:{}{}", service.key, parts::POD))),
            ("depends_on".to_owned(), depends_on(&service.key, said.get("depends_on"))),
        ]);
        if in_place {
            self.place(service, &gone, &joined, edits);
        }
        own.extend(joined);
        if !in_place {
            let whole = self.lines.range(service);
            edits.move_lines(whole.clone());
            edits.put(whole.end, service.place.column, &json!({ service.key.as_str(): &own }));
        }
        if let Some(place) = after.get_mut("services").and_then(|services| services.get_mut(&service.key)) {
            *place = own.into();
        }
        Some(What::Injected)
    }

    /// A service that joins another one's network.
    fn sharer(&self, name: &str) -> Option<&Entry> {
        let Value::Map(entries) = &self.node.get("services")?.value else { return None };
        let wanted = format!("service:{name}");
        entries.iter().find(|entry| {
            let said = merged(&entry.value.to_json());
            text(&said, "network_mode") == Some(wanted.as_str())
        })
    }

    /// Whether a service is written as a key with others below it, one a line.
    fn is_in_place(&self, service: &Entry) -> bool {
        let whole = self.lines.range(service);
        let Value::Map(entries) = &service.value.value else { return false };
        let Some(first) = entries.first() else { return false };
        entries.iter().all(|entry| {
            let line = index(entry.place.line);
            let below = line > whole.start && whole.contains(&line);
            below && entry.place.column == first.place.column && self.lines.is_first(entry.place)
        })
    }

    /// Writes what a service says from now on of its network, and whom it waits for, in its place.
    fn place(&self, service: &Entry, gone: &[&str], joined: &Map<String, Json>, edits: &mut Edits) {
        let Value::Map(entries) = &service.value.value else { return };
        let Some(first) = entries.first() else { return };
        let below = index(service.place.line).saturating_add(1);
        edits.put(below, first.place.column, &joined.clone().into());
        for entry in entries.iter().filter(|entry| gone.contains(&entry.key.as_str())) {
            edits.move_lines(self.lines.range(entry));
        }
    }

    fn volumes(&self, parts: &Parts<'_>, edits: &mut Edits) {
        let volumes = Json::Object(parts.volumes().clone());
        let Some(present) = entry(self.node, "volumes") else {
            let before = entry(self.node, "services").map_or(0, |services| index(services.place.line));
            edits.put(before, self.node.place.column, &json!({"volumes": volumes}));
            return;
        };
        let below = |first: &Entry| first.place.line > present.place.line && self.lines.is_first(first.place);
        match &present.value.value {
            Value::Null => edits.put(index(present.place.line).saturating_add(1), 3, &volumes),
            Value::Map(entries) if entries.first().is_some_and(below) => {
                let column = entries.first().map_or(3, |first| first.place.column);
                edits.put(index(present.place.line).saturating_add(1), column, &volumes);
            }
            _ => {
                let mut all = present.value.to_json();
                if let (Some(all), Some(ours)) = (all.as_object_mut(), volumes.as_object()) {
                    all.extend(ours.clone());
                }
                let range = self.lines.range(present);
                edits.move_lines(range.clone());
                edits.put(range.end, present.place.column, &json!({"volumes": all}));
            }
        }
    }
}

/// A text's lines.
struct Lines<'t> {
    lines: Vec<&'t str>,
    ends: &'static str,
}

/// What is done to lines, which count from 0.
#[derive(Default)]
struct Edits {
    moved: BTreeSet<usize>,
    put: BTreeMap<usize, Vec<String>>,
}

impl Edits {
    /// Puts a mapping before a line, at a column (from 1).
    fn put(&mut self, before: usize, column: u32, mapping: &Json) {
        let pad = " ".repeat(usize::try_from(column).unwrap_or_default().saturating_sub(1));
        let yaml = to_yaml(mapping);
        let lines = yaml.lines().map(|line| format!("{pad}{line}"));
        self.put.entry(before).or_default().extend(lines);
    }

    fn move_lines(&mut self, lines: Range<usize>) {
        self.moved.extend(lines);
    }
}

impl<'t> Lines<'t> {
    fn of(text: &'t str) -> Self {
        let ends = if text.contains("\r\n") { "\r\n" } else { "\n" };
        Self { lines: text.split_inclusive('\n').collect(), ends }
    }

    /// The lines of an entry: its key's, and those that go on with its value.
    fn range(&self, entry: &Entry) -> Range<usize> {
        let start = index(entry.place.line);
        let column = index(entry.place.column);
        let is_list = matches!(entry.value.value, Value::List(_));
        let mut end = start.saturating_add(1);
        for (at, line) in self.lines.iter().enumerate().skip(end) {
            let text = line.trim_start();
            let indent = line.len().saturating_sub(text.len());
            let goes_on = indent > column || (is_list && indent == column && text.starts_with('-'));
            if text.is_empty() || (text.starts_with('#') && !goes_on) {
                // It belongs to what comes next, unless more of this comes.
                continue;
            }
            if !goes_on {
                break;
            }
            end = at.saturating_add(1);
        }
        start..end
    }

    /// Whether nothing stands before a place on its line.
    fn is_first(&self, place: Place) -> bool {
        let line = self.lines.get(index(place.line)).copied().unwrap_or_default();
        line.chars().take(index(place.column)).all(|letter| letter == ' ')
    }

    fn edited(&self, edits: &Edits) -> String {
        let mut out = String::new();
        for at in 0..=self.lines.len() {
            if let Some(put) = edits.put.get(&at) {
                // A last line without an end keeps none: what comes behind it begins with one.
                let open = !out.is_empty() && !out.ends_with('\n');
                let lines = std::iter::once(BEGIN).chain(put.iter().map(String::as_str)).chain([END]);
                let block: Vec<&str> = lines.collect();
                let block = block.join(self.ends);
                out.push_str(&if open {
                    format!("{}{block}", self.ends)
                } else {
                    format!("{block}{}", self.ends)
                });
            }
            if let Some(line) = self.lines.get(at) {
                if edits.moved.contains(&at) {
                    out.push_str(MOVED);
                }
                out.push_str(line);
            }
        }
        out
    }
}

fn index(from_one: u32) -> usize {
    usize::try_from(from_one).unwrap_or_default().saturating_sub(1)
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key)
}

fn merge(document: &mut Json, key: &str, more: &Map<String, Json>) {
    let Some(document) = document.as_object_mut() else { return };
    let place = document.entry(key).or_insert_with(|| json!({}));
    if place.is_null() {
        *place = json!({});
    }
    if let Some(place) = place.as_object_mut() {
        place.extend(more.clone());
    }
}

/// What a service says with its merge keys carried out (YAML's merge key language-independent type).
fn merged(raw: &Json) -> Json {
    let mut said = raw.as_object().cloned().unwrap_or_default();
    let brought = match said.shift_remove("<<") {
        Some(Json::Array(items)) => items,
        Some(other) => vec![other],
        None => Vec::new(),
    };
    for more in brought.iter().map(merged) {
        for (key, value) in more.as_object().into_iter().flatten() {
            said.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    said.into()
}

/// The labels of ours, as metadata of a pod would say them.
fn ours(said: &Json) -> Json {
    let mut ours = Map::new();
    match said.get("labels") {
        Some(Json::Object(labels)) => {
            let is_ours = |(key, _): &(&String, &Json)| key.starts_with("weft.mesh/");
            let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            ours.extend(labels.iter().filter(is_ours).map(|(key, value)| (key.clone(), json!(text(value)))));
        }
        Some(Json::Array(labels)) => {
            let pairs = labels
                .iter()
                .filter_map(Json::as_str)
                .map(|label| label.split_once('=').unwrap_or((label, "")));
            let pairs = pairs.filter(|(key, _)| key.starts_with("weft.mesh/"));
            ours.extend(pairs.map(|(key, value)| (key.to_owned(), json!(value))));
        }
        _ => {}
    }
    json!({ "annotations": ours })
}

fn not_injected(name: &str, said: &Json, wishes: &Wishes<'_>) -> Option<NotInjected> {
    if wishes.get(Annotation::Inject) == Some("disabled") {
        return Some(NotInjected::Disabled);
    }
    if let Some(mode) = text(said, "network_mode").filter(|mode| *mode != "bridge") {
        return Some(NotInjected::Network(mode.to_owned()));
    }
    let copies = |value: Option<&Json>| value.and_then(Json::as_u64).is_some_and(|copies| copies > 1);
    let deploy = said.get("deploy");
    if copies(said.get("scale")) || copies(deploy.and_then(|deploy| deploy.get("replicas"))) {
        return Some(NotInjected::Copies);
    }
    let user = said.get("user").map(|user| user.as_str().map_or_else(|| user.to_string(), str::to_owned));
    let is_ours = |user: &str| user.split(':').next() == Some(SIDECAR_UID.to_string().as_str());
    user.is_some_and(|user| is_ours(&user)).then(|| NotInjected::Uid(name.to_owned()))
}

/// What a service is in the mesh, where names are DNS labels: `web_app` is `web-app`.
fn mesh_name(key: &str) -> Option<Name> {
    let name = key.to_ascii_lowercase().replace('_', "-");
    name.parse().ok().filter(|_| name.len() <= 63 && !name.contains('.'))
}

/// What a service waits for, and its own sidecar.
fn depends_on(name: &str, said: Option<&Json>) -> Json {
    let mut waits = Map::new();
    match said {
        Some(Json::Array(names)) => {
            let names = names.iter().filter_map(Json::as_str);
            waits.extend(names.map(|name| (name.to_owned(), json!({"condition": "service_started"}))));
        }
        Some(Json::Object(names)) => waits.extend(names.clone()),
        _ => {}
    }
    waits.insert(format!("{name}{}", parts::PROXY), json!({"condition": "service_healthy"}));
    waits.into()
}

#[cfg(test)]
#[path = "compose_tests.rs"]
mod tests;
