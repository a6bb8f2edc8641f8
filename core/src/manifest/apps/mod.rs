//! `weft.yaml`: the programs that `weft run -f` runs together, in Compose's words.
//!
//! What stands there is read whole before anything starts: every mistake is told, with its line.

mod env_file;
mod health;
mod interpolate;
mod order;
mod port;
mod restart;
mod service;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value as Json;

use super::decode::{Field, Sink};
use super::document::{self, field_name};
use super::node::{Node, Value};
use super::yaml::{Dialect, documents};
use super::{Place, Problem, SourceFile};
use crate::model::Name;

pub use env_file::read as read_env_file;
pub use health::{Health, HealthCheck, Probe};
pub use port::Port;
pub use restart::{RAN_WELL, Restart, pause};

/// The most programs that one file may name, each copy counted.
pub const MAX_REPLICAS: u32 = 256;

const FIELDS: [&str; 5] = ["name", "namespace", "mesh", "services", "apps"];

/// What a `weft.yaml` says.
#[derive(Debug, Clone, PartialEq)]
pub struct AppsFile {
    /// The namespace that all of it belongs to.
    pub namespace: Name,
    /// What the mesh is told before anything starts.
    pub mesh: Vec<MeshSource>,
    /// The programs, in the order of the file.
    pub apps: Vec<App>,
}

/// Documents for the mesh.
#[derive(Debug, Clone, PartialEq)]
pub enum MeshSource {
    /// A file or a folder of them.
    Path {
        /// Relative to the file's own folder.
        path: String,
        /// Where it is named.
        line: u32,
    },
    /// One that is written out.
    Document {
        /// It.
        document: Json,
        /// Where it begins.
        line: u32,
    },
}

/// A program, and what the mesh knows it as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// What it is called here and, unless it says otherwise, in the mesh.
    pub name: Name,
    /// The service that it belongs to.
    pub service: Name,
    /// The service account that it runs as.
    pub service_account: Name,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The ports that it serves.
    pub ports: Vec<Port>,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What is added to its environment; no value: what ours has.
    pub environment: Vec<(String, Option<String>)>,
    /// Files that hold more of its environment.
    pub env_files: Vec<EnvFile>,
    /// Where it runs, relative to the file's own folder.
    pub working_dir: Option<String>,
    /// What it waits for.
    pub depends_on: Vec<Dependency>,
    /// How it is found out whether it works.
    pub health_check: Option<HealthCheck>,
    /// How many copies of it run.
    pub replicas: u32,
    /// Whether it is started again when it ends.
    pub restart: Restart,
    /// The signal that asks it to end, as signal(7) numbers it.
    pub stop_signal: StopSignal,
    /// How long it may take to end.
    pub stop_grace_period: Duration,
}

/// A file of `KEY=VALUE` lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvFile {
    /// Relative to the file's own folder.
    pub path: String,
    /// Whether it must be there.
    pub required: bool,
    /// Where it is named.
    pub line: u32,
}

/// Another program that must have got somewhere before this one starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Which, as an index of the file's apps.
    pub app: usize,
    /// Where it must have got.
    pub condition: Condition,
}

/// How far a program must have got for those that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// It runs.
    Started,
    /// It works.
    Healthy,
    /// It has done what it was there for.
    Completed,
}

/// What a program is asked to end by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopSignal {
    /// `SIGTERM`.
    #[default]
    Terminate,
    /// `SIGINT`.
    Interrupt,
    /// `SIGQUIT`.
    Quit,
    /// `SIGHUP`.
    HangUp,
    /// `SIGUSR1`.
    User1,
    /// `SIGUSR2`.
    User2,
    /// `SIGKILL`.
    Kill,
}

/// Reads a file. `variable` is asked for each variable that it names; what names no namespace belongs to the default one.
pub fn read(
    file: SourceFile<'_>,
    default_namespace: &Name,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<AppsFile, Vec<Problem>> {
    let sink = Sink::new(file.name);
    let mut roots = documents(file.text, Dialect::Ours, &sink);
    let mut read = None;
    match roots.as_mut_slice() {
        [root] => {
            interpolate::fill(root, variable, &sink);
            read = read_root(&Field::root(root, &sink), default_namespace, &sink);
        }
        [] => sink.mistake(
            Place { line: 1, column: 1 },
            "nothing is named here",
            "write services: {NAME: {command: ..}}",
        ),
        [_, second, ..] => {
            sink.mistake(
                second.place,
                "a second document",
                "write all services into one; documents of the mesh go below mesh:",
            );
        }
    }
    let (problems, _) = sink.into_parts();
    match read {
        Some(read) if problems.is_empty() => Ok(read),
        _ => Err(problems),
    }
}

fn read_root(root: &Field<'_>, default_namespace: &Name, sink: &Sink<'_>) -> Option<AppsFile> {
    let object = root.object(&FIELDS)?;
    object.field("name").and_then(|name| field_name(&name));
    let namespace = object.field("namespace");
    let namespace = namespace.map_or_else(|| Some(default_namespace.clone()), |field| field_name(&field));
    let own = namespace.as_ref().unwrap_or(default_namespace);
    let mesh = object.field("mesh").map(|field| mesh(&field, own, sink)).unwrap_or_default();
    let services = match (object.field("services"), object.field("apps")) {
        (Some(_), Some(apps)) => {
            apps.mistake("services are there too", "write all of them below services");
            return None;
        }
        (None, None) => {
            root.mistake("no services are named", "write services: {NAME: {command: ..}}");
            return None;
        }
        (services, apps) => services.or(apps)?,
    };
    let fields = services.entries()?;
    if fields.is_empty() {
        services.mistake("no services are named", "write NAME: {command: ..} below it");
    }
    let mut apps = Vec::new();
    let mut waits = Vec::new();
    for (name, field) in &fields {
        if let Some((app, depends_on)) = service::read(name, field) {
            apps.push(app);
            waits.push((field.clone(), depends_on));
        }
    }
    let copies = apps.iter().fold(0_u32, |sum, app| sum.saturating_add(app.replicas));
    if copies > MAX_REPLICAS {
        services.mistake(
            format!("{copies} programs, {MAX_REPLICAS} is the most"),
            "write fewer, or fewer replicas",
        );
    }
    if apps.len() == fields.len() {
        order::tie(&mut apps, &waits);
    }
    Some(AppsFile { namespace: namespace?, mesh, apps })
}

fn mesh(field: &Field<'_>, namespace: &Name, sink: &Sink<'_>) -> Vec<MeshSource> {
    let path = |field: &Field<'_>| {
        let path = field.text()?.to_owned();
        Some(MeshSource::Path { path, line: field.place().line })
    };
    if matches!(field.node().value, Value::Text(_)) {
        return path(field).into_iter().collect();
    }
    let mut sources = Vec::new();
    for item in field.list().unwrap_or_default() {
        if let Value::Map(_) = item.node().value {
            // Read here for its mistakes alone: the control plane reads it again.
            document::read(item.node(), namespace, sink, &mut Vec::new());
            let (document, line) = (item.node().to_json(), item.place().line);
            sources.push(MeshSource::Document { document, line });
        } else {
            sources.extend(path(&item));
        }
    }
    sources
}

/// One text or a list of them.
fn texts<'a>(field: &Field<'a>) -> Vec<(Field<'a>, String)> {
    let items = match field.node().value {
        Value::List(_) => field.list().unwrap_or_default(),
        _ => vec![field.clone()],
    };
    let text = |field: Field<'a>| {
        let text = field.spelling().or_else(|| field.text().map(str::to_owned))?;
        Some((field, text))
    };
    items.into_iter().filter_map(text).collect()
}

/// A mapping, or a list of `KEY=VALUE`, as Compose takes either; no value: nothing stands behind the key.
fn pairs(field: &Field<'_>) -> Vec<(String, Option<String>)> {
    if let Value::Map(_) = field.node().value {
        let pair = |(key, value): (&str, Field<'_>)| match &value.node().value {
            Value::Null => Some((key.to_owned(), None)),
            Value::Bool(value) => Some((key.to_owned(), Some(value.to_string()))),
            _ => value
                .spelling()
                .or_else(|| value.text().map(str::to_owned))
                .map(|text| (key.to_owned(), Some(text))),
        };
        return field.entries().unwrap_or_default().into_iter().filter_map(pair).collect();
    }
    let pair = |field: Field<'_>| {
        let text = field.text()?;
        let (key, value) =
            text.split_once('=').map_or((text, None), |(key, value)| (key, Some(value.to_owned())));
        if key.is_empty() {
            field.mistake(format!("{text:?} has no key"), "write KEY=VALUE");
        }
        Some((key.to_owned(), value))
    };
    field.list().unwrap_or_default().into_iter().filter_map(pair).collect()
}

/// Whether a node may be told from nothing.
fn is_there(node: &Node) -> bool {
    node.value != Value::Null
}

#[cfg(test)]
mod tests;
