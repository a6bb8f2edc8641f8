//! `weft get`: resources as they were applied, and their status.

use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Format, Row};
use crate::target::Target;

/// Show resources as they were applied, and their status
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft get httproutes
  weft get trafficpolicy orders -o yaml
  weft get services -A -o json")]
pub(crate) struct Arguments {
    /// The kind, as kubectl spells it: any case, singular or plural
    kind: String,
    /// The name; all of that kind where it is left out
    name: Option<String>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::GetRequest {
        kind: arguments.kind.clone(),
        namespace: common.namespace.to_string(),
        all_namespaces: common.all_namespaces,
        name: arguments.name.clone().unwrap_or_default(),
    };
    let resources = answer(admin.get(request).await)?.resources;
    if let (Some(name), true) = (&arguments.name, resources.is_empty()) {
        anyhow::bail!(
            "there is no {} {name} (weft get {} lists those there are)",
            arguments.kind,
            arguments.kind
        );
    }
    let resources =
        resources.iter().map(|text| serde_json::from_str(text)).collect::<Result<Vec<Value>, _>>();
    let resources = resources.context("the control plane answered with something else than JSON")?;
    match common.output {
        Format::Yaml => output::documents(&resources)?,
        format => output::list(format, &resources.into_iter().map(Resource).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Resource(Value);

impl Resource {
    fn text(&self, pointer: &str) -> String {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or("-").to_owned()
    }

    /// Whether every parent accepted it and all that it names is there; else the first reason.
    fn accepted(&self) -> String {
        let parents = self.0.pointer("/status/parents").and_then(Value::as_array);
        let conditions =
            parents.into_iter().flatten().filter_map(|parent| parent.get("conditions")?.as_array());
        let conditions: Vec<&Value> = conditions.flatten().collect();
        let field =
            |condition: &Value, name| condition.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        match conditions.iter().find(|condition| field(condition, "status") != "True") {
            Some(refused) => field(refused, "reason"),
            None if conditions.is_empty() => "-".to_owned(),
            None => "Accepted".to_owned(),
        }
    }
}

impl Row for Resource {
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "KIND", "NAME", "STATUS", "API VERSION"];
    const WIDE_ONLY: usize = 1;
    const PLURAL: &'static str = "resources";

    fn cells(&self) -> Vec<String> {
        vec![
            self.text("/metadata/namespace"),
            self.text("/kind"),
            self.text("/metadata/name"),
            self.accepted(),
            self.text("/apiVersion"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(conditions: &Value, expected: &str) {
        let resource = Resource(json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "r", "namespace": "shop"},
            "status": {"parents": [{"controllerName": "weft.mesh/controller", "conditions": conditions}]},
        }));
        assert_eq!(
            resource.cells(),
            ["shop", "HTTPRoute", "r", expected, "gateway.networking.k8s.io/v1"].map(str::to_owned)
        );
    }

    #[test]
    fn the_status_is_the_first_condition_that_does_not_hold() {
        let accepted = json!({"type": "Accepted", "status": "True", "reason": "Accepted"});
        let unresolved = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound"});
        check(&json!([accepted]), "Accepted");
        check(&json!([accepted, unresolved]), "BackendNotFound");
        check(&json!([]), "-");
    }
}
