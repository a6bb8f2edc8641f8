//! The mesh of the demo: a control plane, a pod with a sidecar for each service, and one for those who shop.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::{join_all, select_all, try_join_all};
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use weft_core::model::Name;

use super::load::try_front;
use super::scrape::Inbound;
use crate::mesh::{
    Access, Folder, LocalControlPlane, Member, Membership, Own, Resident, Role, SIDECAR_ADMIN, end,
    sidecar_owner,
};
use crate::tether::{self, OURSELVES};
use crate::{http, output};

/// One of the shop's services: what it is called, and what it offers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service {
    pub(crate) name: &'static str,
    offers: &'static str,
}

/// The services, in the order in which a purchase meets them.
pub(crate) const SERVICES: [Service; 4] = [
    Service { name: "web", offers: "web:8080" },
    Service { name: "orders", offers: "orders:8080" },
    Service { name: "inventory", offers: "inventory:9090,inventory:7000,inventory:8080" },
    Service { name: "payments", offers: "payments:8080" },
];
/// Those who shop: a member that offers nothing.
const SHOPPER: Service = Service { name: "shopper", offers: "" };

/// Where each service answers its health checks.
const APPLICATION: &str = "127.0.0.1:8080";
/// The user that the services run as, where we may choose: nobody.
const APPLICATION_UID: u32 = 65534;
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
/// How long a service may finish what it has begun.
const PATIENCE: Duration = Duration::from_secs(3);

/// A running shop.
#[derive(Debug)]
pub(crate) struct Shop {
    control_plane: LocalControlPlane,
    pods: Vec<ServicePod>,
    shopper: Member,
    folder: Folder,
}

/// A service with its sidecar.
#[derive(Debug)]
struct ServicePod {
    service: Service,
    application: Child,
    member: Member,
}

impl Shop {
    /// Starts everything and waits until a purchase goes through.
    pub(crate) async fn start(dashboard: TcpListener) -> anyhow::Result<Self> {
        let folder = Folder::create("demo")?;
        output::progress("starting the control plane");
        let control_plane = LocalControlPlane::start(&folder.path().join("control-plane"), dashboard).await?;

        output::progress("starting four services, each with a sidecar in a pod of its own");
        let shopper = join(&control_plane, SHOPPER, folder.path()).await?;
        let starting = SERVICES.map(|service| ServicePod::start(&control_plane, service, folder.path()));
        let pods = try_join_all(starting).await?;
        let mut shop = Self { control_plane, pods, shopper, folder };
        shop.ready().await?;
        Ok(shop)
    }

    /// How others reach its mesh.
    pub(crate) fn access(&self) -> Access {
        self.control_plane.access()
    }

    /// Its control plane, as the host reaches it.
    pub(crate) fn control_plane(&self) -> Own {
        self.control_plane.own()
    }

    /// The pod of those who shop.
    pub(crate) fn shopper(&self) -> Arc<Resident> {
        self.shopper.resident()
    }

    /// What the services' sidecars have counted. One that does not answer has counted nothing.
    pub(crate) async fn scrape(&self) -> Vec<(&'static str, Inbound)> {
        let scrape = async |pod: &ServicePod| {
            let page = http::get(&pod.member.resident(), SIDECAR_ADMIN, "/metrics").await;
            (pod.service.name, page.map(|(_, metrics)| Inbound::parse(&metrics)).unwrap_or_default())
        };
        join_all(self.pods.iter().map(scrape)).await
    }

    /// Waits until something ends that should not.
    pub(crate) async fn until_trouble(&mut self) -> String {
        let troubles = self.pods.iter_mut().map(|pod| Box::pin(pod.until_trouble()));
        select_all(troubles).await.0
    }

    /// Ends everything but the control plane.
    pub(crate) async fn close(self) -> OpenControlPlane {
        // Services first: their long-lived connections would keep the sidecars waiting.
        let (applications, mut members): (Vec<_>, Vec<_>) =
            self.pods.into_iter().map(|pod| (pod.application, pod.member)).unzip();
        join_all(applications.into_iter().map(async |mut application| {
            if let Err(error) = end(&mut application, PATIENCE).await {
                tracing::warn!("cannot end a service: {error}");
            }
        }))
        .await;
        members.push(self.shopper);
        join_all(members.into_iter().map(Member::leave)).await;
        OpenControlPlane { control_plane: self.control_plane, _folder: self.folder }
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        self.shopper.ready().await.context("shopper")?;
        try_join_all(self.pods.iter_mut().map(ServicePod::ready)).await?;
        output::progress("waiting for the first purchase");
        let deadline = Instant::now() + READY_TIMEOUT;
        while let Err(error) = try_front(self.shopper()).await {
            if Instant::now() > deadline {
                bail!("the shop does not work after {READY_TIMEOUT:?}: {error:#}");
            }
            sleep(POLL).await;
        }
        Ok(())
    }
}

/// The control plane of a closed shop.
#[derive(Debug)]
pub(crate) struct OpenControlPlane {
    control_plane: LocalControlPlane,
    _folder: Folder,
}

impl OpenControlPlane {
    /// Ends it, and removes all files.
    pub(crate) async fn end(self) {
        self.control_plane.end().await;
    }
}

impl ServicePod {
    async fn start(
        control_plane: &LocalControlPlane,
        service: Service,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let member = join(control_plane, service, folder).await?;
        let folder = folder.join(service.name);
        let log = File::create(folder.join("service.log"))?;
        let mut command = tether::command(OURSELVES);
        command
            .args(["example", "shop", service.name])
            .env_clear()
            .env("TMPDIR", &folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        if sidecar_owner().is_some() {
            command.uid(APPLICATION_UID).gid(APPLICATION_UID);
        }
        let application = member.resident().spawn(command, Role::Application).await?;
        Ok(Self { service, application, member })
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        self.member.ready().await.context(self.service.name)?;
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = http::get(&self.member.resident(), APPLICATION, "/health/ready").await;
            if matches!(&answer, Ok((200, _))) {
                return Ok(());
            }
            if let Some(status) = self.application.try_wait()? {
                bail!("{} ended with {status}", self.service.name);
            }
            if Instant::now() > deadline {
                let why = answer.map_or_else(|error| format!("{error:#}"), |(_, body)| body);
                bail!("{} is not ready after {READY_TIMEOUT:?}: {why}", self.service.name);
            }
            sleep(POLL).await;
        }
    }

    async fn until_trouble(&mut self) -> String {
        let trouble = tokio::select! {
            trouble = self.member.until_trouble() => trouble,
            ended = self.application.wait() => match ended {
                Ok(status) => format!("it ended with {status}"),
                Err(error) => format!("it is lost: {error}"),
            },
        };
        format!("{}: {trouble}", self.service.name)
    }
}

async fn join(control_plane: &LocalControlPlane, service: Service, folder: &Path) -> anyhow::Result<Member> {
    let folder = folder.join(service.name);
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let name: Name = service.name.parse()?;
    let membership = Membership {
        workload: format!("{name}-1"),
        namespace: "default".parse()?,
        service_account: name.clone(),
        services: vec![name],
        offers: service.offers.to_owned(),
        labels: vec![("app".to_owned(), service.name.to_owned())],
        workers: Some(1),
    };
    let (target, access) = (control_plane.own().target(), control_plane.access());
    let joined = Member::join(&target, &access.from_pods, control_plane.hub(), &membership, &folder).await;
    joined.context(service.name)
}
