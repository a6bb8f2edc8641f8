//! apply, delete, get, history, rollback.

use serde_json::{Map, Value, json};
use tonic::Status;
use weft_core::attachment::{self, Condition, ParentStatus};
use weft_core::compile;
use weft_core::manifest::{Kind, Resource, ResourceKey, SourceFile, Spec};
use weft_core::model::{QualifiedName, ServicePort};
use weft_core::world::World;
use weft_proto::v1;

use super::listing::protocol_name;
use super::{AdminService, name, namespace};
use crate::configuration::{ConfigurationError, Mode, Outcome};
use crate::report::{chain, rfc3339};

/// Who says so, in the status of a route.
pub(crate) const CONTROLLER: &str = "weft.mesh/controller";

impl AdminService {
    pub(super) async fn apply(&self, request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Status> {
        let namespace = namespace(&request.namespace)?;
        let files: Vec<_> =
            request.files.iter().map(|file| SourceFile { name: &file.name, text: &file.text }).collect();
        let mode = if request.dry_run { Mode::DryRun } else { Mode::Commit };
        let mode = (mode, request.if_revision);
        let outcome = self.configuration.apply(&files, &namespace, &request.author, mode).await;
        let outcome = outcome.map_err(|error| status(&error))?;
        let concerned = self.hub.subscribers(&outcome.told_otherwise);
        let sidecars = self.live.among(&concerned).iter().map(ToString::to_string).collect();
        Ok(v1::ApplyResponse { sidecars, ..response(outcome) })
    }

    pub(super) async fn delete(&self, request: v1::DeleteRequest) -> Result<v1::ApplyResponse, Status> {
        let key = key(&request.kind, &request.namespace, &request.name)?;
        let outcome = self.configuration.delete(&key, &request.author, request.if_revision).await;
        outcome.map(response).map_err(|error| status(&error))
    }

    pub(super) async fn rollback(&self, request: v1::RollbackRequest) -> Result<v1::ApplyResponse, Status> {
        let v1::RollbackRequest { revision, author, if_revision } = request;
        let outcome = self.configuration.rollback(revision, &author, if_revision).await;
        outcome.map(response).map_err(|error| status(&error))
    }

    pub(super) async fn changes(&self, request: v1::ChangesRequest) -> Result<v1::ApplyResponse, Status> {
        let v1::ChangesRequest { from, to } = request;
        let changes = self.configuration.changes(from, to).await.map_err(|error| status(&error))?;
        Ok(response(Outcome { revision: to, changes, ..Outcome::default() }))
    }

    pub(super) async fn history(&self, request: v1::HistoryRequest) -> Result<v1::HistoryResponse, Status> {
        let touching = match request.kind.as_str() {
            "" => None,
            kind => Some(key(kind, &request.namespace, &request.name)?),
        };
        let revisions = self.configuration.history(touching.as_ref()).await.map_err(|e| status(&e))?;
        let revision = |revision: crate::store::Revision| v1::Revision {
            revision: revision.number,
            time: rfc3339(revision.time),
            author: revision.author,
            source: revision.source.as_str().into(),
            summary: revision.summary,
        };
        Ok(v1::HistoryResponse { revisions: revisions.into_iter().map(revision).collect() })
    }

    pub(super) async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
        let kind = kind(&request.kind)?;
        let namespace = namespace(&request.namespace)?;
        let wanted = |resource: &&Resource| {
            let in_namespace = resource.namespace.as_ref().is_none_or(|ns| *ns == namespace);
            resource.kind == kind
                && (request.all_namespaces || in_namespace)
                && (request.name.is_empty() || resource.name.as_str() == request.name)
        };
        let found: Vec<_> = self.world.read(|known| known.resources().filter(wanted).cloned().collect());
        let resources = found.into_iter().map(|resource| {
            let status = self.resource_status(&resource);
            let mut document = resource.document;
            if let Some(document) = document.as_object_mut() {
                document.insert("status".into(), Value::Object(status));
            }
            document.to_string()
        });
        let mut resources: Vec<_> = resources.collect();
        if kind == Kind::Service {
            resources.extend(self.world.read(|known| {
                let offered = known.service_names().into_iter().filter(|service| {
                    known.documented_service(service).is_none()
                        && known.external_service(service).is_none()
                        && (request.all_namespaces || service.namespace == namespace)
                        && (request.name.is_empty() || service.name.as_str() == request.name)
                });
                offered
                    .filter_map(|service| Some(offered_service(known, &service)?.to_string()))
                    .collect::<Vec<_>>()
            }));
        }
        Ok(v1::GetResponse { resources })
    }

    fn resource_status(&self, resource: &Resource) -> Map<String, Value> {
        match (&resource.spec, resource.qualified_name()) {
            (Spec::Service(_), Some(service)) => self.world.read(|known| service_status(known, &service)),
            (Spec::ExternalService(_), Some(service)) => {
                let addresses = self.world.read(|known| known.service_addresses(&service).to_vec());
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                Map::from_iter([("addresses".into(), json!(addresses))])
            }
            (Spec::Route(_), _) => self.world.read(|known| route_status(known, resource)),
            _ => Map::new(),
        }
    }
}

fn service_status(known: &World, service: &QualifiedName) -> Map<String, Value> {
    let addresses: Vec<_> = known.service_addresses(service).iter().map(ToString::to_string).collect();
    let ready = compile::endpoints(known, service).map_or(0, |all| all.iter().filter(|e| e.healthy).count());
    Map::from_iter([
        ("addresses".into(), json!(addresses)),
        ("endpoints".into(), json!(known.members(service).len())),
        ("ready".into(), json!(ready)),
    ])
}

/// As Gateway API has it, so that what reads it in a cluster reads it here.
pub(crate) fn route_status(known: &World, resource: &Resource) -> Map<String, Value> {
    let condition = |kind: &str, condition: &Condition| {
        json!({
            "type": kind,
            "status": if condition.holds { "True" } else { "False" },
            "reason": condition.reason,
            "message": condition.message,
        })
    };
    let parent = |status: ParentStatus<'_>| {
        let ParentStatus { parent, accepted, resolved } = status;
        let mut reference = json!({
            "group": "",
            "kind": "Service",
            "namespace": parent.service.namespace.as_str(),
            "name": parent.service.name.as_str(),
        });
        if let (Some(port), Some(reference)) = (parent.port, reference.as_object_mut()) {
            reference.insert("port".into(), json!(port));
        }
        if let (Some(section), Some(reference)) = (&parent.section, reference.as_object_mut()) {
            reference.insert("sectionName".into(), json!(section));
        }
        json!({
            "parentRef": reference,
            "controllerName": CONTROLLER,
            "conditions": [condition("Accepted", &accepted), condition("ResolvedRefs", &resolved)],
        })
    };
    let parents: Vec<_> = attachment::status(known, resource).into_iter().map(parent).collect();
    Map::from_iter([("parents".into(), json!(parents))])
}

/// A service that no document names, as a document would say it.
fn offered_service(known: &World, name: &QualifiedName) -> Option<Value> {
    let service = compile::service(known, name)?;
    let port = |port: &ServicePort| match protocol_name(port.protocol) {
        Some(protocol) => json!({"port": port.port, "appProtocol": protocol}),
        None => json!({"port": port.port}),
    };
    let ports: Vec<_> = service.ports.iter().map(port).collect();
    Some(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name.name.as_str(), "namespace": name.namespace.as_str()},
        "spec": {"ports": ports},
        "status": service_status(known, name),
    }))
}

fn kind(text: &str) -> Result<Kind, Status> {
    Kind::from_user(text).map_err(|unknown| {
        let hint = if unknown.hint.is_empty() { String::new() } else { format!("; {}", unknown.hint) };
        Status::invalid_argument(format!("{unknown}{hint}"))
    })
}

pub(crate) fn key(kind_text: &str, namespace_text: &str, name_text: &str) -> Result<ResourceKey, Status> {
    let kind = kind(kind_text)?;
    let namespace = if kind.is_namespaced() { Some(namespace(namespace_text)?) } else { None };
    Ok(ResourceKey { kind, namespace, name: name("name", name_text)? })
}

fn response(outcome: Outcome) -> v1::ApplyResponse {
    let change = |change: crate::configuration::Changed| v1::Change {
        kind: change.key.kind.as_str().into(),
        namespace: change.key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: change.key.name.to_string(),
        action: change.action.as_str().into(),
        diff: change.diff,
        document: change.document,
    };
    let problem = |problem: weft_core::manifest::Problem| v1::Problem {
        file: problem.file,
        line: problem.line,
        message: problem.message,
        hint: problem.hint,
    };
    v1::ApplyResponse {
        revision: outcome.revision,
        changes: outcome.changes.into_iter().map(change).collect(),
        problems: outcome.problems.into_iter().map(problem).collect(),
        notes: outcome.notes,
        sidecars: Vec::new(),
    }
}

fn status(error: &ConfigurationError) -> Status {
    let reason = chain(error);
    match error {
        ConfigurationError::Absent(_) | ConfigurationError::NoRevision(_) => Status::not_found(reason),
        ConfigurationError::InConfigDir { .. }
        | ConfigurationError::InKubernetes(_)
        | ConfigurationError::Unreadable { .. } => Status::failed_precondition(reason),
        ConfigurationError::Outdated { .. } | ConfigurationError::Forgotten(_) => Status::aborted(reason),
        ConfigurationError::Store(_) | ConfigurationError::NotReadYet => Status::unavailable(reason),
    }
}
