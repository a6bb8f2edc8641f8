//! What runs beside the listeners where a cluster is read.

use std::sync::Arc;

use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use super::parts::{Kubernetes, Parts};
use super::{AdminToken, until_drained};
use crate::replicas::Replica;
use crate::source::kubernetes::{Keep, Observe};

/// Reads the cluster, leads or waits for that, and, where we lead, keeps in the cluster what others rely on and observes what they change.
pub(super) fn start_cluster(
    parts: &Parts,
    Kubernetes { client, cluster, lease }: &Kubernetes,
    admin: &AdminToken,
    watch: &DrainWatch,
) {
    let (reading, drain) = (cluster.clone(), watch.clone());
    task::supervise("kubernetes", move || until_drained(drain.clone(), reading.clone().run()));
    let (leading, drain) = (lease.clone(), watch.clone());
    // Who shares a store there leads by the same lease.
    if !matches!(parts.replica, Some(Replica::Kubernetes(_))) {
        task::supervise("kubernetes-lease", move || {
            let (leading, drain) = (leading.clone(), drain.clone());
            async move {
                until_drained(drain, leading.clone().run()).await;
                leading.leave().await;
            }
        });
    }
    let keep = Arc::new(Keep {
        client: client.clone(),
        world: parts.world.clone(),
        cluster: cluster.clone(),
        ca: parts.ca.clone(),
        lease: lease.clone(),
        admin: admin.clone(),
    });
    let observe = Arc::new(Observe {
        cluster: cluster.clone(),
        configuration: parts.configuration.clone(),
        leads: parts.leads.clone(),
    });
    let drain = watch.clone();
    task::supervise("kubernetes-observe", move || until_drained(drain.clone(), observe.clone().run()));
    let drain = watch.clone();
    task::supervise("kubernetes-keep", move || until_drained(drain.clone(), keep.clone().run()));
}
