//! A `weft.yaml` with all that it names: everything is read before anything starts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use weft_core::manifest::apps::{self, App, EnvFile, MeshSource};
use weft_core::manifest::{Problem, SourceFile};
use weft_core::model::Name;
use weft_proto::v1;

use super::board::Seat;
use crate::commands::apply;
use crate::mesh::Membership;
use crate::run::offers;

/// What is to run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(super) namespace: Name,
    /// What the mesh is told first.
    pub(super) mesh: Vec<v1::SourceFile>,
    pub(super) apps: Vec<App>,
    /// Every copy of every app, in the order of the file.
    pub(super) programs: Vec<Program>,
}

/// One copy of an app.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) app: Arc<App>,
    pub(super) seat: Seat,
    /// What it is called on the terminal: `web`, or `web-2` where there are several.
    pub(super) title: String,
    /// What is added to our own environment.
    pub(super) environment: BTreeMap<String, String>,
    pub(super) folder: PathBuf,
}

impl Plan {
    /// Reads a file and those that it names, or tells all that is wrong.
    pub(super) fn read(path: &Path, default_namespace: &Name) -> anyhow::Result<Result<Self, Vec<Problem>>> {
        let name = path.display().to_string();
        let text = if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            text
        } else {
            fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?
        };
        let variable = |name: &str| std::env::var(name).ok();
        let file = match apps::read(SourceFile { name: &name, text: &text }, default_namespace, &variable) {
            Ok(file) => file,
            Err(problems) => return Ok(Err(problems)),
        };
        let folder =
            path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let folder = fs::canonicalize(folder).with_context(|| format!("cannot find {}", folder.display()))?;
        let mut problems = Vec::new();
        let mesh = mesh(&file.mesh, &name, &folder, &mut problems);
        let mut programs = Vec::new();
        for (index, app) in file.apps.iter().enumerate() {
            let environment = environment(app, &name, &folder, &mut problems);
            let working_dir = app.working_dir.as_ref().map_or_else(|| folder.clone(), |dir| folder.join(dir));
            let app = Arc::new(app.clone());
            programs.extend((1..=app.replicas).map(|number| Program {
                seat: Seat {
                    app: index,
                    copy: usize::try_from(number.saturating_sub(1)).unwrap_or_default(),
                },
                title: if app.replicas == 1 {
                    app.name.to_string()
                } else {
                    format!("{}-{number}", app.name)
                },
                environment: with_replica(&environment, number),
                folder: working_dir.clone(),
                app: app.clone(),
            }));
        }
        if !problems.is_empty() {
            return Ok(Err(problems));
        }
        Ok(Ok(Self { namespace: file.namespace, mesh, apps: file.apps, programs }))
    }
}

impl Program {
    /// What the mesh is told of it.
    pub(super) fn membership(&self, namespace: &Name) -> Membership {
        let app = &self.app;
        let service = &app.service;
        let ports: Vec<String> = app.ports.iter().map(ToString::to_string).collect();
        Membership {
            workload: format!("{}-{}", self.title, std::process::id()),
            namespace: namespace.clone(),
            service_account: app.service_account.clone(),
            services: vec![service.clone()],
            offers: offers(service, ports.iter().map(String::as_str)),
            labels: app.labels.clone().into_iter().collect(),
            workers: None,
        }
    }
}

fn with_replica(environment: &BTreeMap<String, String>, number: u32) -> BTreeMap<String, String> {
    let mut environment = environment.clone();
    environment.insert("WEFT_REPLICA".to_owned(), number.to_string());
    environment
}

/// The files of `env_file`, a later one before an earlier, and what the app itself says before all of them.
fn environment(
    app: &App,
    name: &str,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut environment = BTreeMap::new();
    for EnvFile { path, required, line } in &app.env_files {
        let at = folder.join(path);
        match fs::read_to_string(&at) {
            Ok(text) => {
                match apps::read_env_file(SourceFile { name: &at.display().to_string(), text: &text }) {
                    Ok(pairs) => environment.extend(pairs),
                    Err(found) => problems.extend(found),
                }
            }
            Err(error) if !required && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => problems.push(unreadable(name, *line, path, &error)),
        }
    }
    // Without a value it is what our own environment has, which the program has anyway.
    let own = app.environment.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
    environment.extend(own);
    environment
}

fn mesh(
    sources: &[MeshSource],
    name: &str,
    folder: &Path,
    problems: &mut Vec<Problem>,
) -> Vec<v1::SourceFile> {
    let mut files = Vec::new();
    for source in sources {
        match source {
            MeshSource::Path { path, line } => match apply::read_all(&[folder.join(path)]) {
                Ok(read) => files.extend(read),
                Err(error) => problems.push(unreadable(name, *line, path, &error.root_cause())),
            },
            MeshSource::Document { document, line } => {
                // On the line that it has in the file, so that what the control plane says of it leads there.
                let before = usize::try_from(line.saturating_sub(1)).unwrap_or_default();
                let text = format!("{}{document}\n", "\n".repeat(before));
                files.push(v1::SourceFile { name: name.to_owned(), text });
            }
        }
    }
    files
}

fn unreadable(name: &str, line: u32, path: &str, why: &dyn std::fmt::Display) -> Problem {
    Problem {
        file: name.to_owned(),
        line,
        column: 1,
        message: format!("cannot read {path}: {why}"),
        hint: "paths are relative to this file's folder".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Result<Plan, Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let plan = Plan::read(&folder.path().join("weft.yaml"), &"default".parse().unwrap()).unwrap();
        let told =
            |problem: &Problem| problem.to_string().replace(&format!("{}/", folder.path().display()), "");
        plan.map_err(|problems| problems.iter().map(told).collect())
    }

    #[test]
    fn a_plan_holds_all_that_its_file_names() {
        let yaml = "services:\n  web: {command: x, replicas: 2, ports: [80], env_file: [a.env, b.env], environment: {C: file}}\nmesh:\n- one.yaml\n- {apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {}}\n";
        let files =
            [("weft.yaml", yaml), ("a.env", "A=a\nB=a\nC=a\n"), ("b.env", "B=b\n"), ("one.yaml", "# one\n")];
        let plan = read(&files).unwrap();
        let titles: Vec<&str> = plan.programs.iter().map(|program| program.title.as_str()).collect();
        assert_eq!(titles, ["web-1", "web-2"]);
        let environment = &plan.programs[1].environment;
        let values = ["A", "B", "C", "WEFT_REPLICA"].map(|key| environment[key].as_str());
        assert_eq!(values, ["a", "b", "file", "2"]);
        let membership = plan.programs[0].membership(&plan.namespace);
        assert_eq!((membership.offers.as_str(), membership.service_account.as_str()), ("web:80", "web"));
        assert_eq!(plan.mesh.len(), 2);
        assert!(plan.mesh[1].text.starts_with("\n\n\n\n{"), "{:?}", plan.mesh[1].text);
    }

    #[test]
    fn what_cannot_be_read_is_told_where_it_is_named() {
        let yaml = "services:\n  web:\n    command: x\n    env_file:\n    - a.env\n    - b.env\n    - {path: c.env, required: false}\nmesh: none\n";
        let told = read(&[("weft.yaml", yaml), ("b.env", "x\n")]).unwrap_err();
        assert_eq!(told.len(), 3, "{told:#?}");
        assert!(told[0].starts_with("weft.yaml:8:1: cannot read none: "), "{told:#?}");
        assert!(told[1].starts_with("weft.yaml:5:1: cannot read a.env: "), "{told:#?}");
        assert!(told[2].contains("b.env:1:1: \"x\" has no \"=\""), "{told:#?}");
    }
}
