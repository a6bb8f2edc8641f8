//! YAML documents <-> typed resources, with file and line in every message.
//!
//! What `weft apply`, `--config-dir` and Kubernetes take. All mistakes of all documents are reported at
//! once; a reading with a problem in it must not be put into force.

pub mod apps;
mod authorization_policy;
mod decode;
mod diff;
mod document;
mod external_service;
mod fault_injection;
mod found;
mod health_check;
mod jwt_authentication;
mod kind;
mod mesh_config;
mod node;
mod priorities;
mod rate_limit;
mod resource;
mod retries;
mod route;
pub mod schema;
mod service;
mod sources;
mod suggest;
mod target;
mod traffic_layer;
mod traffic_policy;
mod value;
mod workload;
mod write;
mod yaml;

use std::collections::HashMap;
use std::fmt;

pub use diff::diff;
pub use external_service::ExternalServiceSpec;
pub use fault_injection::FaultInjectionSpec;
pub use found::{Found, found};
pub use jwt_authentication::JwtAuthenticationSpec;
pub use kind::{Kind, UnknownKind};
pub use node::Place;
pub use rate_limit::{LimitScope, RateLimitSpec};
pub use resource::{
    AuthorizationPolicySpec, Distribution, DocumentedPort, GrantSpec, MeshConfigSpec, ParentRef, Reference,
    Resource, ResourceKey, RouteSpec, ServiceAddresses, ServiceSpec, Spec, Target, TargetPort, WorkloadPort,
    WorkloadSpec,
};
pub use sources::{SourceKind, Sources};
pub use suggest::nearest;
pub use traffic_layer::{BalancingLayer, TimeoutsLayer, TrafficLayer};
pub use traffic_policy::TrafficPolicySpec;
pub use value::{ValueError, is_label_key, is_label_value, parse_duration};
pub use write::to_yaml;

use crate::model::Name;
pub(crate) use decode::Sink;
pub(crate) use node::{Entry, Node, Value};
pub(crate) use yaml::{Dialect, documents, split};

/// A text to read, and its name for messages: a path, or `-`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceFile<'a> {
    /// The name.
    pub name: &'a str,
    /// One or more YAML documents.
    pub text: &'a str,
}

/// What was read.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// The resources, in the order of the files.
    pub resources: Vec<Resource>,
    /// What was skipped or may surprise.
    pub notes: Vec<Note>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Something that may surprise, but is no mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
    /// What there is to say.
    pub message: String,
}

/// A mistake: where, what is wrong, what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// Reads the documents of all files; those that name no namespace go to the default one.
pub fn read(files: &[SourceFile<'_>], default_namespace: &Name) -> Reading {
    let mut reading = Reading::default();
    for file in files {
        let sink = Sink::new(file.name);
        for node in documents(file.text, Dialect::Ours, &sink) {
            document::read(&node, default_namespace, &sink, &mut reading.resources);
        }
        let (problems, notes) = sink.into_parts();
        reading.problems.extend(problems);
        reading.notes.extend(notes);
    }
    reading.problems.extend(duplicates(&reading.resources));
    reading
}

/// The documents of a file that need not be ours, as they are.
pub fn objects(file: SourceFile<'_>) -> Result<Vec<serde_json::Value>, Vec<Problem>> {
    let sink = Sink::new(file.name);
    let objects = documents(file.text, Dialect::Foreign, &sink).iter().map(Node::to_json).collect();
    let (problems, _) = sink.into_parts();
    if problems.is_empty() { Ok(objects) } else { Err(problems) }
}

/// Reads a document that was read and stored before, from `origin`.
pub fn restore(
    document: &serde_json::Value,
    default_namespace: &Name,
    origin: &str,
) -> Result<Resource, Vec<Problem>> {
    let sink = Sink::new(origin);
    let mut resources = Vec::new();
    document::read(&Node::from_json(document), default_namespace, &sink, &mut resources);
    let (problems, _) = sink.into_parts();
    match (resources.pop(), problems.is_empty()) {
        (Some(resource), true) => Ok(resource),
        _ => Err(problems),
    }
}

fn duplicates(resources: &[Resource]) -> Vec<Problem> {
    let mut seen: HashMap<ResourceKey, &Resource> = HashMap::new();
    let mut problems = Vec::new();
    for resource in resources {
        let key = resource.key();
        if let Some(first) = seen.get(&key) {
            let message = format!("{key} is there twice, first at {}:{}", first.file, first.line);
            problems.push(resource.problem("", message, "keep one of them, or name it otherwise".to_owned()));
        } else {
            seen.insert(key, resource);
        }
    }
    problems
}

/// `shop.yaml:3:5: spec.ports[0].port: expected a number, found a list; write a number from 1 to 65535`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, hint } = self;
        write!(f, "{file}:{line}:{column}: {message}")?;
        if hint.is_empty() { Ok(()) } else { write!(f, "; {hint}") }
    }
}

/// `shop.yaml:3: Deployment web skipped: it says nothing to the mesh`.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)
    }
}
