//! ca status, ca rotate, identity revoke.

use std::time::{Duration, SystemTime};

use tonic::Status;
use weft_certs::Root;
use weft_proto::v1;

use super::AdminService;
use crate::ca::status;
use crate::report::{chain, rfc3339};
use crate::store::Revocation;

impl AdminService {
    pub(crate) async fn ca_status(&self, _: v1::CaStatusRequest) -> Result<v1::CaStatusResponse, Status> {
        let standing = self.keeper.standing(SystemTime::now());
        let standing = standing.map_err(|error| Status::internal(chain(&error)))?;
        let root = |(root, certificates): &(Root, usize)| v1::CaRoot {
            name: root.name.clone(),
            fingerprint: root.fingerprint.clone(),
            role: root.role.as_str().into(),
            expires: rfc3339(root.not_after),
            certificates: u32::try_from(*certificates).unwrap_or(u32::MAX),
        };
        Ok(v1::CaStatusResponse {
            phase: standing.roots.phase().as_str().into(),
            since: rfc3339(standing.roots.since()),
            waits_for: standing.waits_for,
            roots: standing.counted.iter().map(root).collect(),
            issuing: standing.roots.issuer().into(),
            issuing_expires: rfc3339(standing.roots.issuing_not_after()),
            source: self.ca.source(),
            trouble: self.ca.trouble().unwrap_or_default(),
        })
    }

    pub(super) async fn rotate_ca(
        &self,
        request: v1::RotateCaRequest,
    ) -> Result<v1::CaStatusResponse, Status> {
        let now = SystemTime::now();
        let turned = if request.abort { self.ca.abort(now).await } else { self.ca.rotate(now).await };
        turned.map_err(|error| status(&error))?;
        self.ca_status(v1::CaStatusRequest {}).await
    }

    pub(super) async fn revoke_identity(
        &self,
        request: v1::RevokeIdentityRequest,
    ) -> Result<v1::RevokeIdentityResponse, Status> {
        let lasts = (request.for_seconds > 0).then(|| Duration::from_secs(request.for_seconds));
        let revoked = self.ca.revoke(&request.what, lasts, &request.reason, SystemTime::now()).await;
        let revocation = revoked.map_err(|error| status(&error))?;
        Ok(v1::RevokeIdentityResponse { revocation: Some(shown(revocation)) })
    }

    pub(super) async fn restore_identity(
        &self,
        request: v1::RestoreIdentityRequest,
    ) -> Result<v1::RestoreIdentityResponse, Status> {
        let restored = self.ca.restore(&request.what, SystemTime::now()).await;
        restored.map_err(|error| status(&error))?;
        Ok(v1::RestoreIdentityResponse {})
    }

    pub(super) async fn list_revocations(
        &self,
        _: v1::ListRevocationsRequest,
    ) -> Result<v1::ListRevocationsResponse, Status> {
        let revocations = self.ca.revocations().into_iter().map(shown).collect();
        Ok(v1::ListRevocationsResponse { revocations })
    }
}

fn shown(revocation: Revocation) -> v1::Revocation {
    let Revocation { what, since, until, reason } = revocation;
    v1::Revocation { what, since: rfc3339(since), until: until.map(rfc3339).unwrap_or_default(), reason }
}
