//! Kubernetes service-account tokens as proof of who a sidecar is: the pod's own, projected for us alone, which the kubelet
//! renews. Proved by the keys of who issues them, or by asking the API server (TokenReview), which also knows of pods
//! that are gone.

mod claims;
mod keys;
mod review;
mod source;

use std::time::SystemTime;

use weft_core::jwt::Flaw;
use weft_core::model::{Name, SpiffeId, TrustDomain};

use crate::store::Grant;
pub(crate) use claims::ServiceAccount;
pub(crate) use source::TokenSource;

use super::{CaError, Claimant};

/// What certificates remember in the place of a join token: that such a token proved their holder, and is to prove it again.
pub(super) const PROVED_BY: &str = "kubernetes";

/// Why a service-account token proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is nothing to prove it by.
    #[error(
        "this is no join token, and service-account tokens are not taken here: the control plane has no --kubernetes-tokens"
    )]
    NotTaken,
    /// The token itself.
    #[error("the service-account token is refused: {0}")]
    Flaw(Flaw),
    /// Its claims.
    #[error("the service-account token is of no pod's account: {0}")]
    Claims(&'static str),
    /// It is of another pod.
    #[error(
        "the service-account token is of the pod {found}, not of {wanted}: WEFT_WORKLOAD must be the pod's name"
    )]
    OtherPod {
        /// The pod that it is bound to.
        found: String,
        /// The workload that asks.
        wanted: String,
    },
    /// An account whose identity is ours.
    #[error("{0} is the control plane's own identity")]
    Own(SpiffeId),
    /// The API server has looked at it.
    #[error("the API server does not take the service-account token: {0}")]
    Rejected(String),
    /// The keys, or the API server, cannot be had now.
    #[error("the service-account token cannot be checked now")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl KubernetesError {
    /// Whether it may go well later.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Flaw(Flaw::NoKeys))
    }
}

/// Checks service-account tokens.
pub(crate) struct Attestor(Means);

enum Means {
    Keys(keys::Keys),
    Review(review::Review),
}

impl std::fmt::Debug for Attestor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Means::Keys(_) => "Attestor(keys)",
            Means::Review(_) => "Attestor(review)",
        })
    }
}

impl Attestor {
    pub(crate) fn new(source: TokenSource) -> Self {
        Self(match source {
            TokenSource::Issuer(issuer) => Means::Keys(keys::Keys::new(issuer)),
            TokenSource::Review(server) => Means::Review(review::Review::new(server)),
        })
    }

    /// Who holds a token, for a workload that asks by it.
    pub(super) async fn prove(
        &self,
        token: &str,
        workload: &Name,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Claimant, KubernetesError> {
        let account = match &self.0 {
            Means::Keys(keys) => keys.prove(token, now).await?,
            Means::Review(review) => review.prove(token).await?,
        };
        if let Some(found) = account.pod.filter(|pod| pod != workload.as_str()) {
            return Err(KubernetesError::OtherPod { found, wanted: workload.to_string() });
        }
        let identity = SpiffeId::of_service_account(domain, &account.namespace, &account.name);
        // As with a join token that names no services.
        let grant = Grant { services: [account.name.to_string()].into(), ..Grant::default() };
        Ok(Claimant { identity, namespace: account.namespace, grant, token: PROVED_BY.to_owned() })
    }
}

impl super::Ca {
    /// Who holds what is no token of ours.
    pub(super) async fn attest_account(
        &self,
        token: &str,
        workload: &Name,
        now: SystemTime,
    ) -> Result<Claimant, CaError> {
        let attestor = self.accounts.as_ref().ok_or(KubernetesError::NotTaken)?;
        let claimant = attestor.prove(token, workload, &self.trust_domain(), now).await?;
        if self.is_own(&claimant.identity) {
            return Err(KubernetesError::Own(claimant.identity).into());
        }
        Ok(claimant)
    }
}
