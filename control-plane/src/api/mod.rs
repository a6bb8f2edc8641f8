//! `weft.v1.Admin`: what the `weft` command asks. Every call carries the admin token, or an administrator's; what changes something
//! wants an operator.

mod authority;
mod backup;
mod configuration;
mod endpoints;
mod explain;
mod gathered;
mod listing;
mod rehearsal;
mod sidecars;
mod stat;
mod tap;
mod tokens;
mod traces;
mod why;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};
use weft_core::model::{Name, QualifiedName};
use weft_proto::v1;

use crate::ca::{Ca, Keeper};
use crate::configuration::Configuration;
use crate::peer::Connection;
use crate::push::Hub;
use crate::report::chain;
use crate::source::registry::Registry;
use crate::status::Live;
use crate::store::{Role, Store};
use crate::taps::Watching;
use crate::telemetry::Telemetry;
use crate::together::Together;
use crate::tokens::{Administrator, TokenError};
use crate::world::World;

pub(crate) use configuration::{CONTROLLER, key, route_status};
pub(crate) use why::hop;

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
    pub(crate) hub: Arc<Hub>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) store: Store,
    pub(crate) together: Arc<Together>,
}

/// Lets only those pass who hold the admin token, or one of ours for administrators. What they may do each call says.
#[derive(Clone)]
pub(crate) struct AdminGate {
    token: Arc<str>,
    ca: Arc<Ca>,
}

impl fmt::Debug for AdminGate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminGate")
    }
}

impl AdminGate {
    pub(crate) fn new(token: &str, ca: Arc<Ca>) -> Self {
        Self { token: token.into(), ca }
    }

    fn administrator(&self, bearer: Option<&str>) -> Result<Administrator, String> {
        let file = "it is in DATA-DIR/admin.token";
        let Some(token) = bearer else { return Err(format!("the admin token is missing; {file}")) };
        if verify_slices_are_equal(token.as_bytes(), self.token.as_bytes()).is_ok() {
            return Ok(Administrator { role: Role::Operator, token: None });
        }
        self.ca.tokens().administrator(token, SystemTime::now()).map_err(|error| match error {
            TokenError::Malformed(_) => format!("this is not the admin token of this control plane; {file}"),
            TokenError::Elsewhere { .. } => {
                format!("a join token does not administer the mesh; the admin token does: {file}")
            }
            error => error.to_string(),
        })
    }

    /// Who holds this token, where it is one of an administrator's that was not taken back; else why not.
    pub(crate) async fn admit(&self, token: &str) -> Result<Administrator, String> {
        let administrator = self.administrator(Some(token))?;
        self.still_admits(&administrator).await.map(|()| administrator)
    }

    /// Whether an administrator's token was not taken back since.
    pub(crate) async fn still_admits(&self, administrator: &Administrator) -> Result<(), String> {
        self.ca.tokens().check(administrator).await.map_err(|error| chain(&error))
    }
}

impl tonic::service::Interceptor for AdminGate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let reason = match self.administrator(bearer(request.metadata())) {
            Ok(administrator) => {
                request.extensions_mut().insert(administrator);
                return Ok(request);
            }
            Err(reason) => reason,
        };
        let from = Connection::of(&request).map(|c| c.address.to_string()).unwrap_or_default();
        tracing::warn!(%from, reason, "refused an admin call");
        Err(Status::unauthenticated(reason))
    }
}

impl AdminService {
    /// Lets a call pass whose caller may make it, by a token that was not taken back.
    async fn admit<T>(&self, request: &Request<T>, call: &str, wanted: Role) -> Result<(), Status> {
        let caller = request.extensions().get::<Administrator>();
        let caller = caller.ok_or_else(|| Status::unauthenticated("nobody has looked at who calls"))?;
        match self.ca.tokens().check(caller).await {
            Ok(()) => {}
            Err(error @ TokenError::Store(_)) => return Err(Status::unavailable(chain(&error))),
            Err(error) => return Err(Status::unauthenticated(chain(&error))),
        }
        if caller.role >= wanted {
            return Ok(());
        }
        let from = Connection::of(request).map(|c| c.address.to_string()).unwrap_or_default();
        tracing::warn!(%from, call, token = caller.token, role = caller.role.as_str(), "denied an admin call");
        let (has, wants) = (caller.role.as_str(), wanted.as_str());
        Err(Status::permission_denied(format!("denied: {call} wants the role {wants}, this token has {has}")))
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

/// `NAME` or `NAME.NAMESPACE`.
fn qualified(field: &str, text: &str, default: &Name) -> Result<QualifiedName, Status> {
    let (text, namespace) = match text.split_once('.') {
        Some((text, namespace)) => (text, name(field, namespace)?),
        None => (text, default.clone()),
    };
    Ok(QualifiedName::new(namespace, name(field, text)?))
}

fn name(field: &str, text: &str) -> Result<Name, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{field}: {error}")))
}

fn viewer<T>(_: &T) -> Role {
    Role::Viewer
}

fn operator<T>(_: &T) -> Role {
    Role::Operator
}

/// Delegates each call to where it belongs, of those who have the role that it wants.
macro_rules! calls {
    ($($call:ident($request:ident) -> $response:ident: $role:expr;)*) => {
        #[tonic::async_trait]
        impl v1::admin_server::Admin for AdminService {
            $(
                async fn $call(
                    &self,
                    request: Request<v1::$request>,
                ) -> Result<Response<v1::$response>, Status> {
                    let wanted: fn(&v1::$request) -> Role = $role;
                    self.admit(&request, stringify!($call), wanted(request.get_ref())).await?;
                    self.$call(request.into_inner()).await.map(Response::new)
                }
            )*

            type BackupStream = backup::Chunks;

            async fn backup(
                &self,
                request: Request<v1::BackupRequest>,
            ) -> Result<Response<backup::Chunks>, Status> {
                self.admit(&request, "backup", Role::Operator).await?;
                self.take_backup(&request).await.map(Response::new)
            }

            type TapStream = Watching;

            async fn tap(&self, request: Request<v1::TapRequest>) -> Result<Response<Watching>, Status> {
                self.admit(&request, "tap", Role::Viewer).await?;
                self.tap(request.into_inner()).await.map(Response::new)
            }
        }
    };
}

calls! {
    apply(ApplyRequest) -> ApplyResponse: |asked| if asked.dry_run { Role::Viewer } else { Role::Operator };
    delete(DeleteRequest) -> ApplyResponse: operator;
    get(GetRequest) -> GetResponse: viewer;
    history(HistoryRequest) -> HistoryResponse: viewer;
    rollback(RollbackRequest) -> ApplyResponse: operator;
    changes(ChangesRequest) -> ApplyResponse: viewer;
    status(StatusRequest) -> StatusResponse: viewer;
    services(ServicesRequest) -> ServicesResponse: viewer;
    endpoints(EndpointsRequest) -> EndpointsResponse: viewer;
    identities(IdentitiesRequest) -> IdentitiesResponse: viewer;
    traces(TracesRequest) -> TracesResponse: viewer;
    trace(TraceRequest) -> TraceResponse: viewer;
    explain(ExplainRequest) -> ExplainResponse: viewer;
    create_token(CreateTokenRequest) -> CreateTokenResponse: operator;
    list_tokens(ListTokensRequest) -> ListTokensResponse: viewer;
    revoke_token(RevokeTokenRequest) -> RevokeTokenResponse: operator;
    ca_status(CaStatusRequest) -> CaStatusResponse: viewer;
    rotate_ca(RotateCaRequest) -> CaStatusResponse: operator;
    revoke_identity(RevokeIdentityRequest) -> RevokeIdentityResponse: operator;
    restore_identity(RestoreIdentityRequest) -> RestoreIdentityResponse: operator;
    list_revocations(ListRevocationsRequest) -> ListRevocationsResponse: viewer;
    stat(StatRequest) -> StatResponse: viewer;
    graph(GraphRequest) -> GraphResponse: viewer;
    ask_sidecar(AskSidecarRequest) -> AskSidecarResponse: sidecars::wants;
    why(WhyRequest) -> WhyResponse: viewer;
    test_policy(TestPolicyRequest) -> TestPolicyResponse: viewer;
}
