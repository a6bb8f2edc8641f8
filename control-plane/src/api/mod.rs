//! `weft.v1.Admin`: what the `weft` command asks. Every call carries the admin token.

mod authority;
mod configuration;
mod explain;
mod listing;
mod tokens;
mod traces;

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use weft_core::model::Name;
use weft_proto::v1;

use crate::ca::{Ca, Keeper};
use crate::configuration::Configuration;
use crate::peer::Connection;
use crate::source::registry::Registry;
use crate::status::Live;
use crate::store::Embedded;
use crate::telemetry::Telemetry;
use crate::world::World;

/// The namespace of those who name none.
const DEFAULT_NAMESPACE: &str = "default";

/// What the calls work with.
#[derive(Debug, Clone)]
pub(crate) struct AdminService {
    pub(crate) ca: Arc<Ca>,
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) world: Arc<World>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) live: Arc<Live>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) store: Embedded,
}

/// Lets only those pass who hold the admin token.
#[derive(Clone)]
pub(crate) struct AdminGate(Arc<str>);

impl fmt::Debug for AdminGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminGate")
    }
}

impl AdminGate {
    pub(crate) fn new(token: &str) -> Self {
        Self(token.into())
    }
}

impl tonic::service::Interceptor for AdminGate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let reason = match bearer(request.metadata()) {
            Some(token) if verify_slices_are_equal(token.as_bytes(), self.0.as_bytes()).is_ok() => {
                return Ok(request);
            }
            // A join token is a JWT: three parts with dots between.
            Some(token) if token.split('.').count() == 3 => {
                "a join token does not administer the mesh; the admin token is in DATA-DIR/admin.token"
            }
            Some(_) => "this is not the admin token of this control plane; it is in DATA-DIR/admin.token",
            None => "the admin token is missing; it is in DATA-DIR/admin.token",
        };
        let from = Connection::of(&request).map(|c| c.address.to_string()).unwrap_or_default();
        tracing::warn!(%from, reason, "refused an admin call");
        Err(Status::unauthenticated(reason))
    }
}

/// The bearer token of a call, where it carries one.
pub(crate) fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A namespace as calls give it; empty: the default one.
fn namespace(text: &str) -> Result<Name, Status> {
    name("namespace", if text.is_empty() { DEFAULT_NAMESPACE } else { text })
}

fn name(field: &str, text: &str) -> Result<Name, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

/// Delegates each call to where it belongs.
macro_rules! calls {
    ($($call:ident($request:ident) -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl v1::admin_server::Admin for AdminService {
            $(
                async fn $call(
                    &self,
                    request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    self.$call(request.into_inner()).await.map(Response::new)
                }
            )*
        }
    };
}

calls! {
    apply(ApplyRequest) -> ApplyResponse;
    delete(DeleteRequest) -> ApplyResponse;
    get(GetRequest) -> GetResponse;
    history(HistoryRequest) -> HistoryResponse;
    rollback(RollbackRequest) -> ApplyResponse;
    status(StatusRequest) -> StatusResponse;
    services(ServicesRequest) -> ServicesResponse;
    identities(IdentitiesRequest) -> IdentitiesResponse;
    traces(TracesRequest) -> TracesResponse;
    trace(TraceRequest) -> TraceResponse;
    explain(ExplainRequest) -> ExplainResponse;
    create_token(CreateTokenRequest) -> CreateTokenResponse;
    list_tokens(ListTokensRequest) -> ListTokensResponse;
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse;
    ca_status(CaStatusRequest) -> CaStatusResponse;
    rotate_ca(RotateCaRequest) -> CaStatusResponse;
    revoke_identity(RevokeIdentityRequest) -> RevokeIdentityResponse;
    restore_identity(RestoreIdentityRequest) -> RestoreIdentityResponse;
    list_revocations(ListRevocationsRequest) -> ListRevocationsResponse;
}
