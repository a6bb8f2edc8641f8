//! What was agreed with a control plane, to come back to it by: kept as long as it is the same one, and we are and believe the
//! same. Whoever has another certificate, or believes others, has itself known anew before it is needed.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::AsyncReadExt as _;
use tokio::time::{sleep, timeout};
use weft_certs::{Credentials, ResumingClient, alpn};

use super::connect::{CONNECT_LIMIT, ConnectError, Security, control_plane_identity, secure};
use crate::config::ControlPlane;

/// Within this time, for all may have heard of a revocation at once; of a short life it is a hundredth part.
const SPREAD: Duration = Duration::from_secs(60);

/// The control plane that was called last, and which of our credentials it was called with.
#[derive(Debug, Default)]
pub(super) struct Acquaintance(Option<Known>);

#[derive(Debug)]
struct Known {
    target: ControlPlane,
    generation: u64,
    tls: Arc<ResumingClient>,
}

impl Acquaintance {
    /// How this control plane is made sure of.
    pub(super) fn with(
        &mut self,
        target: &ControlPlane,
        (generation, credentials): &(u64, Credentials),
    ) -> Result<Arc<ResumingClient>, ConnectError> {
        if let Some(known) = self.0.as_ref().filter(|known| known.is(target, *generation)) {
            return Ok(Arc::clone(&known.tls));
        }
        let expected = control_plane_identity(credentials.trust_domain())?;
        let tls = credentials.resuming_client(&expected, &[alpn::H2]).map_err(ConnectError::Tls)?;
        let tls = Arc::new(tls);
        self.0 = Some(Known { target: target.clone(), generation: *generation, tls: Arc::clone(&tls) });
        Ok(tls)
    }

    /// Whether this control plane knows these credentials.
    pub(super) fn is_with(&self, target: &ControlPlane, generation: u64) -> bool {
        self.0.as_ref().is_some_and(|known| known.is(target, generation))
    }
}

impl Known {
    fn is(&self, target: &ControlPlane, generation: u64) -> bool {
        (&self.target, self.generation) == (target, generation)
    }
}

/// How long to wait until we have ourselves known by these.
pub(super) fn wait(credentials: &Credentials, rng: &mut fastrand::Rng) -> Duration {
    let left = credentials.not_after().duration_since(SystemTime::now()).unwrap_or_default();
    (left / 100).min(SPREAD).mul_f64(rng.f64())
}

/// Waits, and makes a connection that carries nothing.
pub(super) async fn introduce(
    wait: Duration,
    target: ControlPlane,
    tls: Arc<ResumingClient>,
    mark: Option<u32>,
) {
    sleep(wait).await;
    let meeting = async {
        let mut stream = secure(&target, &Security::Again(tls), mark).await?;
        // HTTP/2's first bytes follow on what there is to remember.
        stream.read_u8().await
    };
    match timeout(CONNECT_LIMIT, meeting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(_) => tracing::debug!(control_plane = %target, "known by the new certificate"),
        Err(error) => tracing::debug!(control_plane = %target, %error, "not known by the new certificate"),
    }
}
