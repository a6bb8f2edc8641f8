//! token create, list, revoke.

use std::time::{Duration, SystemTime};

use tonic::Status;
use weft_core::manifest::{is_label_key, is_label_value};
use weft_core::model::{Name, SpiffeId};
use weft_proto::v1;

use super::{AdminService, name, namespace};
use crate::report::{chain, rfc3339};
use crate::store::Role;
use crate::tokens::{TokenError, TokenRequest};

/// How long a token is good that names no time.
const TTL: Duration = Duration::from_hours(1);

impl AdminService {
    pub(super) async fn create_token(
        &self,
        request: v1::CreateTokenRequest,
    ) -> Result<v1::CreateTokenResponse, Status> {
        let ttl = if request.ttl_seconds == 0 { TTL } else { Duration::from_secs(request.ttl_seconds) };
        if !request.admin.is_empty() {
            return self.create_admin_token(&request, ttl).await;
        }
        let service_account = name("service account", &request.service_account)?;
        let mut services = request
            .services
            .iter()
            .map(|text| name("service", text))
            .collect::<Result<std::collections::BTreeSet<Name>, _>>()?;
        if services.is_empty() {
            services.insert(service_account.clone());
        }
        let namespace = namespace(&request.namespace)?;
        let identity = SpiffeId::of_service_account(&self.ca.trust_domain(), &namespace, &service_account);
        if self.ca.is_own(&identity) {
            return Err(Status::invalid_argument(format!("{identity} is the control plane itself")));
        }
        let labels: std::collections::BTreeMap<_, _> = request.labels.into_iter().collect();
        if let Some((key, value)) =
            labels.iter().find(|(key, value)| !is_label_key(key) || !is_label_value(value))
        {
            return Err(Status::invalid_argument(format!("{key}={value} is no label")));
        }
        let wanted = TokenRequest {
            namespace,
            service_account,
            services,
            labels,
            ttl,
            uses: (request.uses > 0).then_some(request.uses),
        };
        let made = self.ca.tokens().create(wanted, SystemTime::now()).await;
        let (token, id) = made.map_err(|error| Status::unavailable(chain(&error)))?;
        tracing::info!(id, "made a join token");
        Ok(v1::CreateTokenResponse { token, id })
    }

    async fn create_admin_token(
        &self,
        request: &v1::CreateTokenRequest,
        ttl: Duration,
    ) -> Result<v1::CreateTokenResponse, Status> {
        let role = match request.admin.as_str() {
            "viewer" => Role::Viewer,
            "operator" => Role::Operator,
            other => {
                let reason = format!("{other:?} is no role: there are viewer and operator");
                return Err(Status::invalid_argument(reason));
            }
        };
        let v1::CreateTokenRequest { service_account, services, labels, uses, .. } = request;
        if !service_account.is_empty() || !services.is_empty() || !labels.is_empty() || *uses != 0 {
            let reason = "an administrator's token names no service account, services, labels or uses";
            return Err(Status::invalid_argument(reason));
        }
        let made = self.ca.tokens().create_admin(role, ttl, SystemTime::now()).await;
        let (token, id) = made.map_err(|error| match error {
            TokenError::Lifetime => Status::invalid_argument(chain(&error)),
            error => Status::unavailable(chain(&error)),
        })?;
        tracing::info!(id, role = role.as_str(), "made an administrator's token");
        Ok(v1::CreateTokenResponse { token, id })
    }

    pub(super) async fn list_tokens(
        &self,
        _: v1::ListTokensRequest,
    ) -> Result<v1::ListTokensResponse, Status> {
        let mut tokens = self.store.tokens().await.map_err(|error| Status::unavailable(chain(&error)))?;
        tokens.sort_by(|a, b| (a.expires, &a.id).cmp(&(b.expires, &b.id)));
        let summary = |token: crate::store::Token| v1::TokenSummary {
            id: token.id,
            namespace: token.namespace,
            service_account: token.service_account,
            services: token.grant.services.into_iter().collect(),
            expires: rfc3339(token.expires),
            uses_left: token.uses_left.unwrap_or(0),
            unlimited: token.uses_left.is_none(),
            revoked: token.revoked,
            admin: token.admin.map(|role| role.as_str().to_owned()).unwrap_or_default(),
        };
        Ok(v1::ListTokensResponse { tokens: tokens.into_iter().map(summary).collect() })
    }

    pub(super) async fn revoke_token(
        &self,
        request: v1::RevokeTokenRequest,
    ) -> Result<v1::RevokeTokenResponse, Status> {
        match self.store.revoke_token(&request.id).await {
            Ok(true) => {
                tracing::info!(id = request.id, "revoked a token");
                Ok(v1::RevokeTokenResponse {})
            }
            Ok(false) => Err(Status::not_found(format!("there is no token {:?}", request.id))),
            Err(error) => Err(Status::unavailable(chain(&error))),
        }
    }
}
