//! `weft.v1.Identity`: certificates by signing request.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};
use weft_core::model::Name;
use weft_proto::v1;

use super::{Ca, CaError, Proof};
use crate::metrics::Metrics;
use crate::peer::Connection;
use crate::report::chain;

/// No signing request of ours is larger.
const LARGEST_REQUEST: usize = 16 << 10;

/// Answers signing requests.
#[derive(Debug)]
pub(crate) struct IdentityService {
    ca: Arc<Ca>,
    metrics: Arc<Metrics>,
}

impl IdentityService {
    /// Answers from this authority.
    pub(crate) fn new(ca: Arc<Ca>, metrics: Arc<Metrics>) -> Self {
        Self { ca, metrics }
    }

    async fn issue(&self, request: &Request<v1::SignRequest>) -> Result<v1::SignResponse, CaError> {
        let now = SystemTime::now();
        let bearer = crate::api::bearer(request.metadata());
        let connection = Connection::of(request);
        let proof = match (bearer, connection.and_then(|c| c.peer.as_ref())) {
            (Some(token), _) => Proof::Token(token),
            (None, Some(peer)) => Proof::Certificate(peer),
            (None, None) => return Err(CaError::NoProof),
        };
        let asked = request.get_ref();
        let workload: Name =
            asked.workload.parse().map_err(|_| CaError::Name(asked.workload.chars().take(253).collect()))?;
        let joins = matches!(proof, Proof::Token(_));
        let claimant = self.ca.attest(proof, &workload, now).await?;
        let identity = claimant.identity.to_string();
        let issued = self.ca.issue(claimant, &workload, &asked.csr, now).await?;
        if joins {
            tracing::info!(%identity, %workload, serial = issued.serial, "joined with a token");
        } else {
            tracing::debug!(%identity, %workload, serial = issued.serial, "renewed its certificate");
        }
        let roots = self.ca.roots();
        let (anchors, sequence) = (roots.anchors(), roots.sequence());
        Ok(v1::SignResponse { chain: issued.chain, anchors, identity, sequence })
    }
}

#[tonic::async_trait]
impl v1::identity_server::Identity for IdentityService {
    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        if request.get_ref().csr.len() > LARGEST_REQUEST {
            return Err(Status::invalid_argument("the certificate request is too large"));
        }
        match self.issue(&request).await {
            Ok(response) => {
                self.metrics.certificates_issued.increment();
                Ok(Response::new(response))
            }
            // It comes again with its token.
            Err(error @ CaError::ProveAgain) => Err(status(&error)),
            Err(error) => {
                self.metrics.certificates_refused.increment();
                let from = Connection::of(&request).map(|c| c.address.to_string()).unwrap_or_default();
                let workload = request.get_ref().workload.chars().take(253).collect::<String>();
                tracing::warn!(%from, workload, reason = chain(&error), "refused a certificate");
                Err(status(&error))
            }
        }
    }
}

/// As callers are told.
pub(crate) fn status(error: &CaError) -> Status {
    let reason = chain(error);
    match error {
        CaError::NoProof | CaError::ProveAgain | CaError::UnknownCertificate(_) => {
            Status::unauthenticated(reason)
        }
        CaError::Account(account) if account.is_passing() => Status::unavailable(reason),
        CaError::Account(_) => Status::unauthenticated(reason),
        CaError::Token(crate::tokens::TokenError::Store(_)) => Status::unavailable(reason),
        CaError::Token(_) => Status::unauthenticated(reason),
        CaError::NotServiceAccount(_) | CaError::Revoked(_) => Status::permission_denied(reason),
        CaError::Name(_) | CaError::Refused(_) | CaError::RevokedName(_) => Status::invalid_argument(reason),
        CaError::Absent(_) => Status::not_found(reason),
        CaError::Irrevocable(..) | CaError::Rotate(_) => Status::failed_precondition(reason),
        CaError::TooMany(_) => Status::resource_exhausted(reason),
        CaError::Authority(_) | CaError::Store(_) | CaError::Files(_) | CaError::WasGiven => {
            Status::unavailable(reason)
        }
    }
}
