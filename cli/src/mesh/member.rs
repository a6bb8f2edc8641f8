//! A member of a mesh: a pod with interception and a sidecar in it.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use weft_core::model::Name;
use weft_pods::{Exemption, Hub, intercept};
use weft_proto::v1;

use super::Access;
use super::resident::{self, Resident, Role};
use crate::client::{self, Admin, answer};
use crate::http;
use crate::tether::{self, OURSELVES};

/// The sidecar's admin port, as the pod itself reaches it.
pub(crate) const SIDECAR_ADMIN: &str = "127.0.0.1:4191";
/// A sidecar has its certificate and configuration within a second; a busy machine is slower.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
/// How long a sidecar may finish what it has begun. We give it a little more before we kill it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// A sidecar renews by its certificate; the token matters only where that ran out meanwhile.
const TOKEN_TTL: Duration = Duration::from_hours(30 * 24);

/// Who joins, and what it offers.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) workload: String,
    pub(crate) namespace: Name,
    pub(crate) service_account: Name,
    /// The services that it may offer.
    pub(crate) services: Vec<Name>,
    /// What it offers of them, as `WEFT_SERVICES` says it.
    pub(crate) offers: String,
    pub(crate) labels: Vec<(String, String)>,
    /// The sidecar's worker threads; as many as there are cores where it is left open.
    pub(crate) workers: Option<u16>,
}

/// A pod with interception and a sidecar in it.
#[derive(Debug)]
pub(crate) struct Member {
    resident: Arc<Resident>,
    sidecar: Child,
    log: PathBuf,
}

impl Member {
    /// Joins: makes a pod, intercepts its traffic, starts its sidecar. Its files go into `folder`, which must exist.
    pub(crate) async fn join(
        access: &Access,
        hub: &Hub,
        membership: &Membership,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mut admin = client::connect(&access.target()).await?;
        let files = Files::create(folder, &access.data_dir, &membership.token(&mut admin).await?)?;
        let pod = hub.pod(&membership.workload)?;
        let rules = intercept::Rules::default().letting_through(Exemption::here());
        pod.run(|| intercept::up(&rules))??;
        let resident = Arc::new(Resident::new(pod)?);

        let mut command = tether::command(OURSELVES);
        command
            .args(["proxy", "run"])
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "RUST_LOG"))
            .envs(membership.environment(access, &files))
            .stdin(Stdio::null())
            .stdout(files.log()?)
            .stderr(files.log()?)
            // The terminal's Ctrl-C is for the program; the sidecar ends after it.
            .process_group(0)
            .kill_on_drop(true);
        let sidecar = resident.spawn(command, Role::Sidecar).await?;
        Ok(Self { resident, sidecar, log: files.log })
    }

    /// The thread in its pod.
    pub(crate) fn resident(&self) -> Arc<Resident> {
        self.resident.clone()
    }

    /// Waits until the sidecar carries traffic.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let answer = http::get(&self.resident, SIDECAR_ADMIN, "/ready").await;
            if matches!(&answer, Ok((200, _))) {
                return Ok(());
            }
            if let Some(status) = self.sidecar.try_wait()? {
                bail!("the sidecar ended with {status}: {}", self.last_words());
            }
            if Instant::now() > deadline {
                let why = answer.map_or_else(|error| format!("{error:#}"), |(_, body)| body);
                bail!("the sidecar is not ready after {READY_TIMEOUT:?}: {why}; {}", self.last_words());
            }
            sleep(POLL).await;
        }
    }

    /// Waits until the sidecar has ended by itself.
    pub(crate) async fn until_trouble(&mut self) -> String {
        match self.sidecar.wait().await {
            Ok(status) => format!("the sidecar ended with {status}: {}", self.last_words()),
            Err(error) => format!("the sidecar is lost: {error}"),
        }
    }

    /// Leaves: the sidecar finishes what it has begun and signs off.
    pub(crate) async fn leave(mut self) {
        if let Err(error) = resident::end(&mut self.sidecar, DRAIN_TIMEOUT + Duration::from_secs(2)).await {
            tracing::warn!("cannot end a sidecar: {error}");
        }
    }

    /// The last line of the sidecar's log.
    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let line = log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        line.trim().to_owned()
    }
}

impl Membership {
    async fn token(&self, admin: &mut Admin) -> anyhow::Result<String> {
        let request = v1::CreateTokenRequest {
            namespace: self.namespace.to_string(),
            service_account: self.service_account.to_string(),
            services: self.services.iter().map(ToString::to_string).collect(),
            labels: self.labels.iter().cloned().collect::<HashMap<_, _>>(),
            ttl_seconds: TOKEN_TTL.as_secs(),
            uses: 0,
        };
        Ok(answer(admin.create_token(request).await)?.token)
    }

    fn environment(&self, access: &Access, files: &Files) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut environment = vec![
            ("WEFT_CONTROL_PLANE", access.from_pods.clone()),
            ("WEFT_CA", path(&files.ca)),
            ("WEFT_TOKEN_FILE", path(&files.token)),
            ("WEFT_CACHE_DIR", path(&files.cache)),
            ("WEFT_WORKLOAD", self.workload.clone()),
            ("WEFT_DRAIN_TIMEOUT", format!("{}s", DRAIN_TIMEOUT.as_secs())),
        ];
        let optional = [("WEFT_SERVICES", self.offers.clone()), ("WEFT_LABELS", labels.join(","))];
        environment.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        environment.extend(self.workers.map(|workers| ("WEFT_WORKERS", workers.to_string())));
        environment
    }
}

/// What a sidecar reads and writes.
struct Files {
    ca: PathBuf,
    token: PathBuf,
    cache: PathBuf,
    log: PathBuf,
}

impl Files {
    fn create(folder: &Path, data_dir: &Path, token: &str) -> anyhow::Result<Self> {
        let at = |name| folder.join(name);
        let files = Self { ca: at("ca.pem"), token: at("token"), cache: at("cache"), log: at("sidecar.log") };
        let create = || {
            fs::copy(data_dir.join("ca.pem"), &files.ca)?;
            fs::write(&files.token, token)?;
            fs::create_dir_all(&files.cache)?;
            File::create(&files.log)?;
            let modes =
                [(&files.ca, 0o444), (&files.token, 0o400), (&files.cache, 0o700), (&files.log, 0o600)];
            for (file, mode) in modes {
                fs::set_permissions(file, Permissions::from_mode(mode))?;
            }
            for file in [&files.token, &files.cache] {
                if let Some(owner) = resident::sidecar_owner() {
                    chown(file, Some(owner), Some(owner))?;
                }
            }
            std::io::Result::Ok(())
        };
        create().with_context(|| format!("cannot write the sidecar's files in {}", folder.display()))?;
        Ok(files)
    }

    fn log(&self) -> anyhow::Result<File> {
        let opened = File::options().append(true).open(&self.log);
        opened.with_context(|| format!("cannot open {}", self.log.display()))
    }
}
