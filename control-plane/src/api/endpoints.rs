//! endpoints: who is called behind services, and where each is known from.

use tonic::Status;
use weft_core::compile;
use weft_core::manifest::SourceKind;
use weft_core::model::{Endpoint, PortMap, QualifiedName};
use weft_proto::v1;

use super::{AdminService, name, namespace};

impl AdminService {
    pub(super) async fn endpoints(
        &self,
        request: v1::EndpointsRequest,
    ) -> Result<v1::EndpointsResponse, Status> {
        let namespace = namespace(&request.namespace)?;
        if !request.service.is_empty() {
            let service = QualifiedName::new(namespace, name("service", &request.service)?);
            let found = self.world.read(|known| compile::sourced_endpoints(known, &service));
            let found = found.ok_or_else(|| Status::not_found(format!("there is no service {service}")))?;
            return Ok(v1::EndpointsResponse { endpoints: listed(&service, found).collect() });
        }
        let endpoints = self.world.read(|known| {
            let mut services = known.service_names();
            services.retain(|service| request.all_namespaces || service.namespace == namespace);
            let of = |service: QualifiedName| {
                let found = compile::sourced_endpoints(known, &service).unwrap_or_default();
                listed(&service, found).collect::<Vec<_>>()
            };
            services.into_iter().flat_map(of).collect()
        });
        Ok(v1::EndpointsResponse { endpoints })
    }
}

fn listed(
    service: &QualifiedName,
    found: Vec<(SourceKind, Endpoint)>,
) -> impl Iterator<Item = v1::ListedEndpoint> {
    let port = |map: &PortMap| match map.port == map.target_port {
        true => map.port.to_string(),
        false => format!("{}->{}", map.port, map.target_port),
    };
    found.into_iter().map(move |(source, endpoint)| v1::ListedEndpoint {
        namespace: service.namespace.to_string(),
        service: service.name.to_string(),
        workload: endpoint.workload.to_string(),
        source: source.to_string(),
        addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
        ports: endpoint.ports.iter().map(port).collect(),
        identity: endpoint.identity.map(|identity| identity.to_string()).unwrap_or_default(),
        zone: endpoint.zone,
        weight: endpoint.weight,
        healthy: endpoint.healthy,
        node: endpoint.node.as_ref().to_owned(),
    })
}
