//! `weft endpoints`: who is called behind services.

use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Row};
use crate::target::Target;

/// Show who is called behind services, and where each is known from: kubernetes, registry, documents or dns
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft endpoints
  weft endpoints orders -o wide")]
pub(crate) struct Arguments {
    /// Only of this service
    service: Option<String>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::EndpointsRequest {
        service: arguments.service.unwrap_or_default(),
        namespace: common.namespace.to_string(),
        all_namespaces: common.all_namespaces,
    };
    let endpoints = answer(admin.endpoints(request).await)?.endpoints;
    output::list(common.output, &endpoints.into_iter().map(Endpoint::from).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Endpoint {
    namespace: String,
    service: String,
    workload: String,
    source: String,
    healthy: bool,
    addresses: Vec<String>,
    ports: Vec<String>,
    identity: String,
    zone: String,
    weight: u32,
    node: String,
}

impl From<v1::ListedEndpoint> for Endpoint {
    fn from(listed: v1::ListedEndpoint) -> Self {
        Self {
            namespace: listed.namespace,
            service: listed.service,
            workload: listed.workload,
            source: listed.source,
            healthy: listed.healthy,
            addresses: listed.addresses,
            ports: listed.ports,
            identity: listed.identity,
            zone: listed.zone,
            weight: listed.weight,
            node: listed.node,
        }
    }
}

impl Row for Endpoint {
    const COLUMNS: &'static [&'static str] = &[
        "NAMESPACE",
        "SERVICE",
        "WORKLOAD",
        "SOURCE",
        "HEALTHY",
        "ADDRESSES",
        "PORTS",
        "IDENTITY",
        "ZONE",
        "WEIGHT",
        "NODE",
    ];
    const WIDE_ONLY: usize = 4;
    const PLURAL: &'static str = "endpoints";

    fn cells(&self) -> Vec<String> {
        let identity = if self.identity.is_empty() { "none: plaintext" } else { &self.identity };
        vec![
            self.namespace.clone(),
            self.service.clone(),
            self.workload.clone(),
            self.source.clone(),
            if self.healthy { "yes" } else { "no" }.to_owned(),
            self.addresses.join(","),
            self.ports.join(","),
            identity.to_owned(),
            self.zone.clone(),
            self.weight.to_string(),
            self.node.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        let endpoint = Endpoint::from(v1::ListedEndpoint {
            namespace: "default".into(),
            service: "orders".into(),
            workload: "default/vm".into(),
            source: "registry".into(),
            addresses: vec!["10.0.2.1".into()],
            ports: vec!["80->8080".into()],
            identity: String::new(),
            zone: "a".into(),
            weight: 1,
            healthy: true,
            node: "n1".into(),
        });
        assert_eq!(
            serde_json::to_string(&endpoint).unwrap(),
            r#"{"namespace":"default","service":"orders","workload":"default/vm","source":"registry","healthy":true,"addresses":["10.0.2.1"],"ports":["80->8080"],"identity":"","zone":"a","weight":1,"node":"n1"}"#
        );
        assert_eq!(endpoint.cells().len(), Endpoint::COLUMNS.len());
        assert_eq!(endpoint.cells()[7], "none: plaintext");
    }
}
