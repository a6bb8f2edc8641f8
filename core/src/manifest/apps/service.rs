//! One of the services of a `weft.yaml`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::decode::{Field, Object};
use super::super::document::field_name;
use super::super::node::Value;
use super::super::value::{is_label_key, is_label_value};
use super::order::Wish;
use super::{
    App, EnvFile, MAX_REPLICAS, Port, StopSignal, health, is_there, order, pairs, port, restart, texts, words,
};
use crate::model::Name;

const FIELDS: [&str; 16] = [
    "command",
    "service",
    "service_account",
    "labels",
    "ports",
    "environment",
    "env_file",
    "working_dir",
    "depends_on",
    "healthcheck",
    "replicas",
    "scale",
    "deploy",
    "restart",
    "stop_signal",
    "stop_grace_period",
];

/// What Compose knows and has no meaning for a program without a container.
const CONTAINERS: [&str; 14] = [
    "image",
    "build",
    "volumes",
    "networks",
    "network_mode",
    "container_name",
    "entrypoint",
    "hostname",
    "extra_hosts",
    "cap_add",
    "privileged",
    "user",
    "secrets",
    "configs",
];

/// How long a program may take to end, unless it says otherwise.
const GRACE: Duration = Duration::from_secs(10);

const SIGNALS: [(&str, StopSignal); 7] = [
    ("SIGTERM", StopSignal::Terminate),
    ("SIGINT", StopSignal::Interrupt),
    ("SIGQUIT", StopSignal::Quit),
    ("SIGHUP", StopSignal::HangUp),
    ("SIGUSR1", StopSignal::User1),
    ("SIGUSR2", StopSignal::User2),
    ("SIGKILL", StopSignal::Kill),
];

/// Reads one; with it whom it waits for, by name.
pub(super) fn read(name: &str, field: &Field<'_>) -> Option<(App, Vec<Wish>)> {
    let Value::Map(entries) = &field.node().value else {
        field.mistake("expected a mapping", "write command: .. below it");
        return None;
    };
    let container = entries.iter().find(|entry| CONTAINERS.contains(&entry.key.as_str()));
    if let Some(entry) = container {
        field.mistake(
            format!("{:?} is for containers, and this is for programs", entry.key),
            "write command: PROGRAM ARGUMENTS; a Compose file gets its sidecars by weft inject",
        );
        return None;
    }
    let object = field.object(&FIELDS)?;
    let name = own_name(name, field);
    let service = object.field("service").map_or_else(|| name.clone(), |field| field_name(&field));
    let account = object.field("service_account").map_or_else(|| service.clone(), |field| field_name(&field));
    let ports: Vec<Port> = object.field("ports").map(|field| port::read_all(&field)).unwrap_or_default();
    let command = object.required("command", "write the program and its arguments");
    let command = command.and_then(|field| command_line(&field));
    let app = App {
        labels: object.field("labels").map(|field| labels(&field)).unwrap_or_default(),
        environment: object.field("environment").map(|field| pairs(&field)).unwrap_or_default(),
        env_files: object.field("env_file").map(|field| env_files(&field)).unwrap_or_default(),
        working_dir: object.field("working_dir").and_then(|field| field.text().map(str::to_owned)),
        depends_on: Vec::new(),
        health_check: health::read(object.field("healthcheck").as_ref(), &ports),
        replicas: replicas(&object),
        restart: object.field("restart").and_then(|field| restart::read(&field)).unwrap_or_default(),
        stop_signal: object.field("stop_signal").and_then(|field| field.choice(&SIGNALS)).unwrap_or_default(),
        stop_grace_period: object
            .field("stop_grace_period")
            .and_then(|field| field.duration())
            .unwrap_or(GRACE),
        ports,
        name: name?,
        service: service?,
        service_account: account?,
        command: command?,
    };
    let waits = object.field("depends_on").map(|field| order::read(&field)).unwrap_or_default();
    Some((app, waits))
}

fn own_name(name: &str, field: &Field<'_>) -> Option<Name> {
    match name.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            field.mistake(
                error,
                "a service's name is its name in the mesh: write lower-case letters, digits and inner '-'",
            );
            None
        }
    }
}

/// A list is taken as it is, a text is split into words as a shell would.
fn command_line(field: &Field<'_>) -> Option<Vec<String>> {
    let words: Vec<String> = match &field.node().value {
        Value::List(_) => texts(field).into_iter().map(|(_, text)| text).collect(),
        _ => match words::split(field.text()?) {
            Ok(words) => words,
            Err(error) => {
                field.mistake(error, "close it, or write a list of words");
                return None;
            }
        },
    };
    if words.first().is_none_or(String::is_empty) {
        field.mistake("no program is named", "write the program and its arguments");
        return None;
    }
    Some(words)
}

fn labels(field: &Field<'_>) -> BTreeMap<String, String> {
    let pairs = pairs(field);
    for (key, value) in &pairs {
        if !is_label_key(key) || !is_label_value(value.as_deref().unwrap_or_default()) {
            field.mistake(
                format!("{key:?} is no label, or has no label's value"),
                "write at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
            );
        }
    }
    pairs.into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

fn env_files(field: &Field<'_>) -> Vec<EnvFile> {
    let items = match field.node().value {
        Value::List(_) => field.list().unwrap_or_default(),
        _ => vec![field.clone()],
    };
    let file = |field: Field<'_>| {
        let line = field.place().line;
        if let Value::Map(_) = field.node().value {
            let object = field.object(&["path", "required"])?;
            let path = object.required("path", "write the file's path")?.text()?.to_owned();
            let required = object.field("required").and_then(|field| field.bool()).unwrap_or(true);
            return Some(EnvFile { path, required, line });
        }
        Some(EnvFile { path: field.text()?.to_owned(), required: true, line })
    };
    items.into_iter().filter_map(file).collect()
}

/// `replicas`, as Compose also spells it `scale` and `deploy.replicas`.
fn replicas(object: &Object<'_>) -> u32 {
    let deploy = object.field("deploy").and_then(|field| field.object(&["replicas"]));
    let spelt =
        [object.field("replicas"), object.field("scale"), deploy.and_then(|deploy| deploy.field("replicas"))];
    let mut spelt = spelt.into_iter().flatten().filter(|field| is_there(field.node()));
    let Some(field) = spelt.next() else { return 1 };
    if let Some(other) = spelt.next() {
        other.mistake("said twice", "keep one of them");
    }
    // What a variable stands for is a text.
    if let Some(number) = field.spelling().filter(|_| !field.is_number()).and_then(|text| text.parse().ok())
        && (1..=MAX_REPLICAS).contains(&number)
    {
        return number;
    }
    field.integer(1..=MAX_REPLICAS).unwrap_or(1)
}
