//! Clusters outside the mesh: their endpoints are the addresses of a host.

use std::rc::Rc;

use weft_core::model::{External, HostName, Protocol, QualifiedName};

use super::super::egress::{Egress, Outside};
use super::{Cluster, Site, Source, State};

impl Cluster {
    /// Calls a host outside the mesh.
    pub(super) fn reach_out(
        &self,
        state: &mut State,
        name: &QualifiedName,
        port: u16,
        external: &External,
        failing: &[QualifiedName],
    ) {
        let host = match &self.source {
            Source::Host(_, _, host) => Some(&**host),
            Source::Service(..) | Source::Workload(..) | Source::App(..) => {
                external.host.as_ref().map(HostName::as_str)
            }
        };
        let (Some(host), Some(port)) = (host, external.target_port(port)) else {
            state.outside = None;
            return state.replace(Vec::new());
        };
        let before = state.outside.take();
        // Where the app itself speaks TLS there is nothing left to be done.
        let speaks_tls = self.protocol.get() == Protocol::Tls || matches!(self.source, Source::Host(..));
        let origination = external.tls.clone().filter(|_| !speaks_tls).map(Rc::new);
        let mut outside = Outside::new(host, port, origination, before, &self.site.names);
        outside.failing = failing.to_vec();
        state.outside = Some(outside);
        state.spread(&self.source, &self.site, name);
    }

    /// Where it is outside the mesh, to be looked up before one of its upstreams is picked.
    pub(in crate::upstream) fn egress(&self) -> Option<Rc<Egress>> {
        self.state.borrow().outside.as_ref().map(|outside| Rc::clone(&outside.egress))
    }
}

impl State {
    /// Takes over the addresses of a host outside the mesh, each an endpoint.
    pub(super) fn spread(&mut self, source: &Source, site: &Site, service: &QualifiedName) {
        let Some(outside) = &mut self.outside else { return };
        let (port, endpoints) = (outside.port, outside.take_endpoints(service));
        self.rebuild(source, site, endpoints.iter().map(|endpoint| (endpoint, port)));
    }
}
