//! Sidecars into manifests and out of them: a text in, the same text with what was added or taken out.

use serde_json::{Value as Json, json};

use super::annotations::BadAnnotation;
use super::changes::{self, Change, Step};
use super::pod::{self, Injection, NotInjected};
use super::template::{self, Found};
use super::text::{Edit, Text};
use super::{INJECTED, Settings, compose, container};
use crate::manifest::{self, Dialect, Entry, Node, Note, Place, Problem, Sink, SourceFile, Value, to_yaml};

/// What came of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    /// It.
    pub text: String,
    /// What became of each workload in it.
    pub outcomes: Vec<Outcome>,
    /// What may surprise.
    pub notes: Vec<Note>,
}

/// What became of a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which: `deployment/web`.
    pub workload: String,
    /// What was done.
    pub what: What,
}

/// What was done with a workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// It was given a sidecar.
    Injected,
    /// It was not.
    Not(NotInjected),
    /// Its sidecar was taken out.
    Removed,
    /// It had no sidecar of ours.
    HadNone,
}

/// What is done with each pod of a text.
#[derive(Clone, Copy)]
enum Deed<'s> {
    Inject(&'s Settings),
    Remove,
}

/// Gives the workloads of manifests their sidecars; those that have one get it anew.
pub fn inject(file: SourceFile<'_>, settings: &Settings) -> Result<Rewritten, Vec<Problem>> {
    if is_compose(file) {
        let bare = compose::remove(file);
        return compose::inject(SourceFile { text: &bare.text, ..file }, settings);
    }
    let bare = rewrite(file, Deed::Remove)?;
    let mut injected = rewrite(SourceFile { text: &bare.text, ..file }, Deed::Inject(settings))?;
    injected.notes.splice(0..0, bare.notes);
    Ok(injected)
}

/// Takes the sidecars out again.
pub fn uninject(file: SourceFile<'_>) -> Result<Rewritten, Vec<Problem>> {
    if is_compose(file) {
        return Ok(compose::remove(file));
    }
    rewrite(file, Deed::Remove)
}

/// Whether a file is Compose's and not Kubernetes'.
fn is_compose(file: SourceFile<'_>) -> bool {
    read(file.text).is_some_and(|node| compose::is_compose(&node.to_json()))
}

fn rewrite(file: SourceFile<'_>, deed: Deed<'_>) -> Result<Rewritten, Vec<Problem>> {
    let sink = Sink::new(file.name);
    manifest::documents(file.text, Dialect::Foreign, &sink);
    let mut rewritten = Rewritten { text: String::new(), outcomes: Vec::new(), notes: Vec::new() };
    for (piece, lines_before) in manifest::split(file.text) {
        let Some(node) = read(piece) else {
            rewritten.text.push_str(piece);
            continue;
        };
        let before = node.to_json();
        let mut document =
            Document { node: &node, text: Text::new(piece), after: before.clone(), edits: Some(Vec::new()) };
        for found in template::find(&before) {
            match document.treat(&found, deed) {
                Ok(what) => rewritten.outcomes.push(Outcome { workload: found.owner, what }),
                Err(bad) => {
                    let place = Place { line: lines_before.saturating_add(node.place.line), ..node.place };
                    sink.mistake(place, format!("{}: {bad}", found.owner), "correct the pod's metadata");
                }
            }
        }
        rewritten.text.push_str(&document.written(piece).unwrap_or_else(|anew| {
            let message =
                "written anew, without its comments: what was added could not be placed in the text";
            let line = lines_before.saturating_add(node.place.line);
            rewritten.notes.push(Note { file: file.name.to_owned(), line, message: message.to_owned() });
            anew
        }));
    }
    let (problems, _) = sink.into_parts();
    if problems.is_empty() { Ok(rewritten) } else { Err(problems) }
}

/// The one document of a piece; mistakes in it have been told.
fn read(piece: &str) -> Option<Node> {
    manifest::documents(piece, Dialect::Foreign, &Sink::new("")).into_iter().next()
}

/// A document that is being changed, as an object and as a text.
struct Document<'t> {
    node: &'t Node,
    text: Text<'t>,
    after: Json,
    /// None: something could not be placed.
    edits: Option<Vec<Edit>>,
}

impl Document<'_> {
    fn treat(&mut self, found: &Found, deed: Deed<'_>) -> Result<What, BadAnnotation> {
        let Some(pod) = changes::at_mut(&mut self.after, &found.path) else { return Ok(What::HadNone) };
        let part = |key: &str| pod.get(key).cloned().unwrap_or_default();
        let (metadata, spec) = (part("metadata"), part("spec"));
        let (what, edits) = match deed {
            Deed::Inject(settings) => match pod::into_pod(&metadata, &spec, settings)? {
                Injection::Not(reason) => return Ok(What::Not(reason)),
                Injection::Changes(changes) => {
                    changes.iter().for_each(|change| change.apply(pod));
                    (What::Injected, self.insertions(&found.path, &changes))
                }
            },
            Deed::Remove if !pod::is_injected(&metadata) => return Ok(What::HadNone),
            Deed::Remove => {
                let added = added(&metadata);
                remove(pod, &added);
                (What::Removed, self.cuts(&found.path, &added))
            }
        };
        self.edits = self.edits.take().zip(edits).map(|(all, new)| [all, new].concat());
        Ok(what)
    }

    fn insertions(&self, path: &[Step], changes: &[Change]) -> Option<Vec<Edit>> {
        let pod = Pod::find(self.node, path)?;
        let insertion = |change: &Change| match change {
            Change::Prepend { key, items } => match entry(&pod.spec.value, key) {
                Some(list) => self.text.prepend(list, items),
                None => self.text.add(pod.spec, key, &json!(items)),
            },
            Change::Annotate { key, value } => {
                let value = json!(value);
                let Some(metadata) = pod.metadata else {
                    return self.text.add(pod.parent?, "metadata", &json!({"annotations": {*key: value}}));
                };
                match entry(&metadata.value, "annotations") {
                    Some(annotations) => self.text.add(annotations, key, &value),
                    None => self.text.add(metadata, "annotations", &json!({ *key: value })),
                }
            }
        };
        changes.iter().map(insertion).collect()
    }

    fn cuts(&self, path: &[Step], added: &[String]) -> Option<Vec<Edit>> {
        let pod = Pod::find(self.node, path)?;
        let is_added = |key: &str| added.iter().any(|added| added == key);
        let mut cuts = Vec::new();
        for (key, ours) in OURS {
            let Some(list) = entry(&pod.spec.value, key) else { continue };
            let Value::List(items) = &list.value.value else { continue };
            let is_ours =
                |item: &&Node| item.get("name").and_then(Node::text).is_some_and(|name| ours.contains(&name));
            if is_added(key) && items.iter().all(|item| is_ours(&item)) {
                cuts.push(self.text.cut_entry(list)?);
                continue;
            }
            for item in items.iter().filter(is_ours) {
                cuts.push(self.text.cut_item(item)?);
            }
        }
        let metadata = pod.metadata?;
        let annotations = entry(&metadata.value, "annotations")?;
        let cut = if is_added("metadata") && is_alone(&metadata.value) && is_alone(&annotations.value) {
            metadata
        } else if is_added("annotations") && is_alone(&annotations.value) {
            annotations
        } else {
            entry(&annotations.value, INJECTED)?
        };
        cuts.push(self.text.cut_entry(cut)?);
        Some(cuts)
    }

    /// The text with the edits, where it says what the object says; else, as the error, the object's own text.
    fn written(self, piece: &str) -> Result<String, String> {
        if self.edits.as_ref().is_some_and(Vec::is_empty) {
            return Ok(piece.to_owned());
        }
        let edited = self.edits.and_then(|edits| self.text.edited(edits));
        let wanted = essence(&self.after);
        let right = edited.filter(|text| {
            let read = read(text).map(|node| essence(&node.to_json()));
            manifest::split(text).len() == manifest::split(piece).len() && read.as_ref() == Some(&wanted)
        });
        right.ok_or_else(|| anew(piece, &self.after))
    }
}

/// Where the parts of a pod are in a document's tree.
struct Pod<'n> {
    parent: Option<&'n Entry>,
    metadata: Option<&'n Entry>,
    spec: &'n Entry,
}

impl<'n> Pod<'n> {
    fn find(root: &'n Node, path: &[Step]) -> Option<Self> {
        let (mut pod, mut parent) = (root, None);
        for step in path {
            match (step, &pod.value) {
                (Step::Key(key), _) => {
                    let entry = entry(pod, key)?;
                    (pod, parent) = (&entry.value, Some(entry));
                }
                (Step::Index(index), Value::List(items)) => (pod, parent) = (items.get(*index)?, None),
                _ => return None,
            }
        }
        Some(Self { parent, metadata: entry(pod, "metadata"), spec: entry(pod, "spec")? })
    }
}

fn entry<'n>(node: &'n Node, key: &str) -> Option<&'n Entry> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == key)
}

fn is_alone(node: &Node) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.len() == 1)
}

/// What is ours in the lists of a pod.
const OURS: [(&str, &[&str]); 3] = [
    ("initContainers", &[container::INIT, container::SIDECAR]),
    ("containers", &[container::SIDECAR]),
    ("volumes", &[container::IDENTITY, container::CACHE]),
];

/// Which keys were made for what was added.
fn added(metadata: &Json) -> Vec<String> {
    let record = metadata.get("annotations").and_then(|annotations| super::text(annotations, INJECTED));
    let record = record.and_then(|record| serde_json::from_str::<Json>(record).ok()).unwrap_or_default();
    let added = record.get("added").and_then(Json::as_array).into_iter().flatten();
    added.filter_map(Json::as_str).map(str::to_owned).collect()
}

fn remove(pod: &mut Json, added: &[String]) {
    let drop_empty = |map: &mut serde_json::Map<String, Json>, key: &str| {
        let empty = match map.get(key) {
            Some(Json::Array(items)) => items.is_empty(),
            Some(Json::Object(entries)) => entries.is_empty(),
            _ => false,
        };
        if empty && added.iter().any(|added| added == key) {
            map.shift_remove(key);
        }
    };
    if let Some(spec) = pod.get_mut("spec").and_then(Json::as_object_mut) {
        for (key, ours) in OURS {
            if let Some(list) = spec.get_mut(key).and_then(Json::as_array_mut) {
                list.retain(|item| !super::text(item, "name").is_some_and(|name| ours.contains(&name)));
            }
            drop_empty(spec, key);
        }
    }
    if let Some(metadata) = pod.get_mut("metadata").and_then(Json::as_object_mut) {
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Json::as_object_mut) {
            annotations.shift_remove(INJECTED);
        }
        drop_empty(metadata, "annotations");
    }
    if let Some(pod) = pod.as_object_mut() {
        drop_empty(pod, "metadata");
    }
}

/// What a document says: a key without a value, or with an empty one, says as much as none.
fn essence(json: &Json) -> Json {
    let says = |json: &Json| match json {
        Json::Null => false,
        Json::Array(items) => !items.is_empty(),
        Json::Object(map) => !map.is_empty(),
        Json::Bool(_) | Json::Number(_) | Json::String(_) => true,
    };
    match json {
        Json::Array(items) => items.iter().map(essence).collect(),
        Json::Object(map) => {
            let entries = map.iter().map(|(key, value)| (key.clone(), essence(value)));
            Json::Object(entries.filter(|(_, value)| says(value)).collect())
        }
        _ => json.clone(),
    }
}

/// A document written as a whole, behind the marker that it began with.
fn anew(piece: &str, after: &Json) -> String {
    if piece.trim_start().starts_with('{') {
        return format!("{after:#}\n");
    }
    let marker = if piece.lines().any(|line| line.trim_end() == "---") { "---\n" } else { "" };
    format!("{marker}{}", to_yaml(after))
}
