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

use super::resident::{self, Resident, Role};
use super::way_out;
use crate::client::{self, answer};
use crate::http;
use crate::target::Target;
use crate::tether::{self, OURSELVES};

/// The sidecar's admin port, as the pod itself reaches it.
pub(crate) const SIDECAR_ADMIN: &str = "127.0.0.1:4191";
/// A sidecar has its certificate and configuration within a second; a busy machine is slower.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(25);
/// How long a sidecar may finish what it has begun. We give it a little more before we kill it.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long others may take to hear that a member leaves; after that its sidecar takes nothing new from them either.
const FAREWELL: Duration = Duration::from_millis(600);
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
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
}

impl Member {
    /// Joins: makes a pod, intercepts its traffic, starts its sidecar. Its files go into `folder`, which must exist.
    pub(crate) async fn join(
        target: &Target,
        from_pods: &str,
        hub: &Hub,
        membership: &Membership,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let token = membership.token(target).await?;
        let files = Files::create(folder, &target.ca, &token, &way_out::resolv_conf(hub.address_v4()))?;
        let pod = hub.pod(&membership.workload)?;
        let rules = intercept::Rules::default().letting_through(Exemption::here());
        pod.run(|| intercept::up(&rules))??;
        let environment = membership.environment(from_pods, &files);
        Self::start(Resident::new(pod)?, environment, files.log).await
    }

    /// Joins with a program of the machine's own network, where nothing is intercepted yet. The control planes are those that the
    /// machine calls.
    pub(crate) async fn join_machine(
        target: &Target,
        control_planes: &str,
        membership: &Membership,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let token = membership.token(target).await?;
        let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let files = Files::create(folder, &target.ca, &token, &resolv_conf)?;
        let mut environment = membership.environment(control_planes, &files);
        // Others of the machine have connections as well: they are not waited for.
        environment.push(("WEFT_APP_GRACE", "0s".to_owned()));
        Self::start(Resident::of_machine()?, environment, files.log).await
    }

    async fn start(
        resident: Resident,
        environment: Vec<(&'static str, String)>,
        log: PathBuf,
    ) -> anyhow::Result<Self> {
        let resident = Arc::new(resident);
        let sidecar = start_sidecar(&resident, &environment, &log).await?;
        Ok(Self { resident, sidecar, environment, log })
    }

    /// Starts the sidecar anew after it ended by itself. It comes up with what it has on disk.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<()> {
        self.sidecar = start_sidecar(&self.resident, &self.environment, &self.log).await?;
        Ok(())
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
                let (why, said) = (why.trim(), self.last_words());
                bail!("the sidecar is not ready after {READY_TIMEOUT:?}: {why}; {said}");
            }
            sleep(POLL).await;
        }
    }

    /// Leaves the services: when this returns, others call elsewhere, while what they have begun goes on and the program may call.
    pub(crate) async fn withdraw(&self) {
        // A sidecar that does not answer takes no calls either.
        if http::post(&self.resident, SIDECAR_ADMIN, "/drain").await.is_ok() {
            sleep(FAREWELL).await;
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

async fn start_sidecar(
    resident: &Resident,
    environment: &[(&'static str, String)],
    log: &Path,
) -> anyhow::Result<Child> {
    let open =
        || File::options().append(true).open(log).with_context(|| format!("cannot open {}", log.display()));
    let mut command = tether::command(OURSELVES);
    command
        .args(["proxy", "run"])
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| name == "RUST_LOG"))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        // The terminal's Ctrl-C is for the program; the sidecar ends after it.
        .process_group(0)
        .kill_on_drop(true);
    resident.spawn(command, Role::Sidecar).await
}

impl Membership {
    /// The token to join with: one of the administrator's making, unless we were given a token to join with.
    async fn token(&self, target: &Target) -> anyhow::Result<String> {
        let given = target.token()?;
        if is_join_token(&given) {
            return Ok(given);
        }
        let mut admin = client::connect(target).await?;
        let request = v1::CreateTokenRequest {
            namespace: self.namespace.to_string(),
            service_account: self.service_account.to_string(),
            services: self.services.iter().map(ToString::to_string).collect(),
            labels: self.labels.iter().cloned().collect::<HashMap<_, _>>(),
            ttl_seconds: TOKEN_TTL.as_secs(),
            uses: 0,
            admin: String::new(),
        };
        Ok(answer(admin.create_token(request).await)?.token)
    }

    fn environment(&self, from_pods: &str, files: &Files) -> Vec<(&'static str, String)> {
        let path = |path: &Path| path.display().to_string();
        let labels: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let mut environment = vec![
            ("WEFT_CONTROL_PLANE", from_pods.to_owned()),
            ("WEFT_CA", path(&files.ca)),
            ("WEFT_TOKEN_FILE", path(&files.token)),
            ("WEFT_CACHE_DIR", path(&files.cache)),
            ("WEFT_RESOLV_CONF", path(&files.resolv_conf)),
            ("WEFT_WORKLOAD", self.workload.clone()),
            ("WEFT_DRAIN_TIMEOUT", format!("{}s", DRAIN_TIMEOUT.as_secs())),
        ];
        let optional = [("WEFT_SERVICES", self.offers.clone()), ("WEFT_LABELS", labels.join(","))];
        environment.extend(optional.into_iter().filter(|(_, value)| !value.is_empty()));
        environment.extend(self.workers.map(|workers| ("WEFT_WORKERS", workers.to_string())));
        environment
    }
}

/// How the tokens of `weft token create --admin` begin: `{"alg":"HS256","typ":"weft-admin+jwt"}`.
const ADMINISTRATION: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IndlZnQtYWRtaW4rand0In0.";

/// Tokens to join with are JWTs (RFC 7519 section 3). Those of administrators are none, or say that they are theirs.
fn is_join_token(token: &str) -> bool {
    token.split('.').count() == 3 && !token.starts_with(ADMINISTRATION)
}

/// What a sidecar reads and writes.
struct Files {
    ca: PathBuf,
    token: PathBuf,
    cache: PathBuf,
    resolv_conf: PathBuf,
    log: PathBuf,
}

impl Files {
    fn create(folder: &Path, ca: &Path, token: &str, resolv_conf: &str) -> anyhow::Result<Self> {
        let at = |name| folder.join(name);
        let files = Self {
            ca: at("ca.pem"),
            token: at("token"),
            cache: at("cache"),
            resolv_conf: at("resolv.conf"),
            log: at("sidecar.log"),
        };
        let create = || {
            fs::copy(ca, &files.ca)?;
            fs::write(&files.token, token)?;
            fs::write(&files.resolv_conf, resolv_conf)?;
            fs::create_dir_all(&files.cache)?;
            File::create(&files.log)?;
            let modes = [
                (&files.ca, 0o444),
                (&files.resolv_conf, 0o444),
                (&files.token, 0o400),
                (&files.cache, 0o700),
                (&files.log, 0o600),
            ];
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sidecar_is_told_what_the_member_offers() {
        let membership = Membership {
            workload: "hello-1".into(),
            namespace: "default".parse().unwrap(),
            service_account: "hello".parse().unwrap(),
            services: vec!["hello".parse().unwrap()],
            offers: "hello:8000".into(),
            labels: vec![("a".into(), "b".into()), ("c".into(), "d".into())],
            workers: None,
        };
        let files = Files {
            ca: "/f/ca".into(),
            token: "/f/t".into(),
            cache: "/f/c".into(),
            resolv_conf: "/f/r".into(),
            log: "/f/l".into(),
        };
        let environment = membership.environment("https://10.238.0.1:7443", &files);
        let value =
            |name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("WEFT_CONTROL_PLANE"), Some("https://10.238.0.1:7443"));
        assert_eq!(value("WEFT_SERVICES"), Some("hello:8000"));
        assert_eq!(value("WEFT_LABELS"), Some("a=b,c=d"));
        assert_eq!(value("WEFT_TOKEN_FILE"), Some("/f/t"));
        assert_eq!(value("WEFT_WORKERS"), None);
        let silent = Membership { offers: String::new(), labels: Vec::new(), ..membership };
        assert!(!silent.environment("x", &files).iter().any(|(name, _)| *name == "WEFT_SERVICES"));
    }

    #[test]
    fn tokens_to_join_with_are_told_from_the_administrators() {
        assert!(is_join_token("eyJh.eyJq.c2ln"));
        assert!(!is_join_token("0123456789abcdef"));
        assert!(!is_join_token("a.b"));
        assert!(!is_join_token(&format!("{ADMINISTRATION}eyJq.c2ln")));
    }
}
