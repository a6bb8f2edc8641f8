//! `weft install`, `upgrade`, `uninstall` and `crds`: the control plane's objects, for kubectl.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::Value;
use weft_core::install::{self, Replicas, Settings};
use weft_core::manifest::{schema, to_yaml};

use crate::args::key_value;
use crate::output;

/// Print what installs the control plane into a Kubernetes cluster
///
/// Custom resource definitions, the rights that it needs, the control plane, and the webhook that gives pods their
/// sidecars, in the namespace weft. Nothing is called: the output is for kubectl.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft install | kubectl apply -f -
  weft install --set image.registry=registry.example.com/mesh | kubectl apply -f -
  weft install --ha | kubectl apply -f -
  kubectl label namespace shop weft.mesh/inject=enabled")]
pub(crate) struct InstallArguments {
    /// Three control planes, apart from each other, whose store is in the cluster
    #[arg(long)]
    ha: bool,
    /// A setting: image.registry, image.tag, sidecar=native|container, trustDomain, storage.size, storage.class, ca.secret, webhook.failurePolicy=Ignore|Fail; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Print what brings an installed control plane to this version of weft
///
/// The same as weft install prints: what is there already is changed by kubectl apply. Pods get the newer sidecar when
/// they are made anew.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft upgrade | kubectl apply -f -
  kubectl -n shop rollout restart deployment                   new sidecars for all of a namespace")]
pub(crate) struct UpgradeArguments {
    #[command(flatten)]
    install: InstallArguments,
}

/// Print what is to be deleted to take the control plane out of a cluster
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft uninstall | kubectl delete --ignore-not-found -f -
  weft uninstall --crds | kubectl delete --ignore-not-found -f -     and all configuration with it")]
pub(crate) struct UninstallArguments {
    /// The custom resource definitions too; with them all configuration in the cluster goes
    #[arg(long)]
    crds: bool,
}

/// Print the custom resource definitions of weft.mesh
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft crds | kubectl apply -f -")]
pub(crate) struct CrdsArguments {}

pub(crate) fn install(arguments: &InstallArguments) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::default();
    for text in &arguments.set {
        let (key, value) = key_value(text).context("--set")?;
        settings.set(&key, &value).context("--set")?;
    }
    settings.replicate(if arguments.ha { Replicas::Three } else { Replicas::One });
    print(&install::objects(&settings))
}

pub(crate) fn upgrade(arguments: &UpgradeArguments) -> anyhow::Result<ExitCode> {
    install(&arguments.install)
}

pub(crate) fn uninstall(arguments: &UninstallArguments) -> anyhow::Result<ExitCode> {
    let mut objects = install::removal();
    if arguments.crds {
        objects.extend(schema::definitions());
    }
    output::note("with its volume goes the mesh's root: what is installed later is another mesh")?;
    print(&objects)
}

pub(crate) fn crds(_: &CrdsArguments) -> anyhow::Result<ExitCode> {
    print(&schema::definitions())
}

fn print(objects: &[Value]) -> anyhow::Result<ExitCode> {
    let documents: Vec<_> = objects.iter().map(to_yaml).collect();
    output::print(&documents.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}
