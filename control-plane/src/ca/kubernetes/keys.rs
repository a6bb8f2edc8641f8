//! Service-account tokens proved by the keys of who issues them, from a file or asked for where the issuer says.

use std::fs;
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::Instant;
use weft_certs::is_signed;
use weft_core::jwt::{Flaw, prove, read_key_set};
use weft_core::model::{Forwarding, KeySource, TokenKey, TokenProvider};

use super::source::Issuer;
use super::{KubernetesError, ServiceAccount};
use crate::keys::key_set;

/// By how much the issuer's clock may differ from ours.
const SKEW: Duration = Duration::from_secs(10);
/// How long keys that were asked for are good.
const KEPT: Duration = Duration::from_mins(10);
/// How often at most they are asked for: whoever makes up tokens decides on that.
const ASKED: Duration = Duration::from_secs(10);

pub(super) struct Keys {
    issuer: Issuer,
    asked: Mutex<Asked>,
}

/// What was asked for last.
#[derive(Default)]
struct Asked {
    keys: Vec<TokenKey>,
    at: Option<Instant>,
}

impl Keys {
    pub(super) fn new(issuer: Issuer) -> Self {
        Self { issuer, asked: Mutex::default() }
    }

    pub(super) async fn prove(
        &self,
        token: &str,
        now: SystemTime,
    ) -> Result<ServiceAccount, KubernetesError> {
        match self.prove_by(self.keys(KEPT).await?, token, now) {
            // It may be signed by a key that is newer than those we have.
            Err(KubernetesError::Flaw(Flaw::UnknownKey)) if self.issuer.jwks.is_none() => {
                self.prove_by(self.keys(ASKED).await?, token, now)
            }
            proved => proved,
        }
    }

    fn prove_by(
        &self,
        keys: Vec<TokenKey>,
        token: &str,
        now: SystemTime,
    ) -> Result<ServiceAccount, KubernetesError> {
        let provider = TokenProvider {
            issuer: self.issuer.issuer.clone(),
            audiences: vec![self.issuer.audience.clone()],
            keys,
            places: Vec::new(),
            forwarding: Forwarding::default(),
            claim_headers: Vec::new(),
            skew: SKEW,
        };
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let proved = prove(token, std::iter::once(&provider), since, &is_signed);
        ServiceAccount::of_claims(&proved.map_err(KubernetesError::Flaw)?.claims)
    }

    /// Keys that are not older than that. Those that were asked for last stay good where no others can be had.
    async fn keys(&self, oldest: Duration) -> Result<Vec<TokenKey>, KubernetesError> {
        if let Some(path) = &self.issuer.jwks {
            let text = fs::read(path).map_err(|error| KubernetesError::Unavailable(error.into()))?;
            return read_key_set(&text).map_err(|error| KubernetesError::Unavailable(error.into()));
        }
        let mut asked = self.asked.lock().await;
        if asked.at.is_some_and(|at| at.elapsed() < oldest) {
            return Ok(asked.keys.clone());
        }
        let authorities = match &self.issuer.ca {
            Some(path) => {
                fs::read_to_string(path).map_err(|error| KubernetesError::Unavailable(error.into()))?
            }
            None => String::new(),
        };
        let source = KeySource::Discovered { issuer: self.issuer.issuer.clone(), authorities };
        let found = key_set(&source).await;
        asked.at = Some(Instant::now());
        match found {
            Ok((_, keys, _)) => asked.keys = keys,
            Err(error) if asked.keys.is_empty() => return Err(KubernetesError::Unavailable(error.into())),
            Err(error) => tracing::warn!(
                reason = crate::report::chain(&error),
                "keys of service-account tokens cannot be fetched: those fetched last stay"
            ),
        }
        Ok(asked.keys.clone())
    }
}
