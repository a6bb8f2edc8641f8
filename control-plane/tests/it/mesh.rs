//! A control plane under test, and callers of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use weft_certs::{Credentials, KeyPair, ResumingClient, alpn, anchored_client_config, pem, request};
use weft_control_plane::{App, Config, Handle, Listeners, StartError};
use weft_core::model::{SpiffeId, TrustDomain};
use weft_proto::v1;
use weft_proto::v1::admin_client::AdminClient;
use weft_proto::v1::identity_client::IdentityClient;

use crate::returning::{self, Counters, Security};

/// What anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Mesh {
    pub(crate) handle: Handle,
    pub(crate) dir: Arc<TempDir>,
}

impl Mesh {
    pub(crate) async fn start() -> Self {
        Self::start_in(Arc::new(TempDir::new().unwrap()), &[]).await
    }

    /// With its data in a directory that may hold some already.
    pub(crate) async fn start_in(dir: Arc<TempDir>, flags: &[&str]) -> Self {
        Self::try_start_in(dir, flags).await.unwrap()
    }

    pub(crate) async fn try_start_in(dir: Arc<TempDir>, flags: &[&str]) -> Result<Self, StartError> {
        let data = dir.path().join("data");
        let any = "127.0.0.1:0";
        let fixed = ["cp", "--grpc-addr", any, "--http-addr", any, "--otlp-addr", any, "--data-dir"];
        let flags = fixed.into_iter().chain([data.to_str().unwrap()]).chain(flags.iter().copied());
        let handle = App::start(Config::parse_from(flags), Listeners::default()).await?;
        Ok(Self { handle, dir })
    }

    /// Ends it, and starts another one on the same data.
    pub(crate) async fn restart(self) -> Self {
        Self::start_in(self.stop().await, &[]).await
    }

    /// Ends it, and gives back its folder when no one has the store open any more.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.handle.shutdown().await;
        // The tasks of its last connections may hold it for a moment longer than it runs.
        let store = self.dir.path().join("data/weft.redb");
        eventually("the store is closed", async || redb::Database::open(&store).is_ok()).await;
        self.dir
    }

    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join("data").join(name)
    }

    pub(crate) fn domain(&self) -> TrustDomain {
        "mesh.local".parse().unwrap()
    }

    pub(crate) fn identity(&self) -> SpiffeId {
        "spiffe://mesh.local/ns/weft/sa/control-plane".parse().unwrap()
    }

    pub(crate) fn anchors(&self) -> Vec<Vec<u8>> {
        pem::certificates(&self.handle.ca_pem).unwrap()
    }

    pub(crate) async fn connect(&self, tls: Arc<ClientConfig>) -> Channel {
        connect(self.handle.grpc.to_string(), tls).await
    }

    /// A caller without a certificate.
    pub(crate) async fn stranger(&self) -> Channel {
        self.connect(anchored_client_config(&self.anchors(), &self.identity(), &[alpn::H2]).unwrap()).await
    }

    /// A caller with one.
    pub(crate) async fn known(&self, credentials: &Credentials) -> Channel {
        self.connect(credentials.client_config(&self.identity(), &[alpn::H2]).unwrap()).await
    }

    /// A caller with one that comes back, and what it is sent.
    pub(crate) async fn returning(&self, tls: &Arc<ResumingClient>, counters: &Arc<Counters>) -> Channel {
        returning::connect(self.handle.grpc, Security::Again(tls.clone()), counters.clone()).await.unwrap()
    }

    pub(crate) async fn admin(&self) -> Admin {
        let token = self.handle.admin_token.reveal().to_owned();
        Admin { client: AdminClient::new(self.stranger().await), token }
    }

    /// A token for a service account of the default namespace, which may offer the service of its name.
    /// The serial numbers of a workload's certificates in use.
    pub(crate) async fn serials(&self, workload: &str) -> Vec<String> {
        let request = v1::IdentitiesRequest { workload: workload.into(), ..Default::default() };
        let found = self.admin().await.identities(request).await.unwrap().identities;
        found.into_iter().map(|identity| identity.serial).collect()
    }

    pub(crate) async fn token(&self, account: &str) -> String {
        let wanted = v1::CreateTokenRequest { service_account: account.into(), ..Default::default() };
        self.admin().await.create_token(wanted).await.unwrap().token
    }

    pub(crate) async fn sign(&self, token: &str, workload: &str) -> Result<Credentials, Status> {
        let request = with_bearer(token, sign_request(workload));
        self.sign_with(self.stranger().await, request.0, &request.1).await
    }

    /// Asks for a certificate for a new key.
    pub(crate) async fn sign_with(
        &self,
        channel: Channel,
        request: Request<v1::SignRequest>,
        key: &KeyPair,
    ) -> Result<Credentials, Status> {
        let signed = IdentityClient::new(channel).sign(request).await?.into_inner();
        Ok(Credentials::new(signed.chain, key, &signed.anchors, &self.domain()).unwrap())
    }

    /// A certificate for a workload, by a token made for it.
    pub(crate) async fn join(&self, account: &str, workload: &str) -> Credentials {
        self.sign(&self.token(account).await, workload).await.unwrap()
    }
}

pub(crate) fn sign_request(workload: &str) -> (Request<v1::SignRequest>, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let csr = request(&key).unwrap();
    (Request::new(v1::SignRequest { csr, workload: workload.into() }), key)
}

pub(crate) fn with_bearer<T, K>(token: &str, (mut request, key): (Request<T>, K)) -> (Request<T>, K) {
    let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    (request, key)
}

pub(crate) async fn connect(address: String, tls: Arc<ClientConfig>) -> Channel {
    let connector = tower::service_fn(move |_| {
        let (address, tls) = (address.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            let name = ServerName::try_from("localhost").unwrap();
            let stream = TlsConnector::from(tls).connect(name, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Endpoint::from_static("http://weft").connect_with_connector(connector).await.unwrap()
}

/// The `weft` command's side.
pub(crate) struct Admin {
    pub(crate) client: AdminClient<Channel>,
    pub(crate) token: String,
}

macro_rules! calls {
    ($($call:ident: $request:ident -> $response:ident;)*) => {
        impl Admin {
            $(
                pub(crate) async fn $call(&mut self, request: v1::$request) -> Result<v1::$response, Status> {
                    let (request, ()) = with_bearer(&self.token, (Request::new(request), ()));
                    self.client.$call(request).await.map(tonic::Response::into_inner)
                }
            )*
        }
    };
}

calls! {
    apply: ApplyRequest -> ApplyResponse;
    delete: DeleteRequest -> ApplyResponse;
    get: GetRequest -> GetResponse;
    history: HistoryRequest -> HistoryResponse;
    rollback: RollbackRequest -> ApplyResponse;
    changes: ChangesRequest -> ApplyResponse;
    status: StatusRequest -> StatusResponse;
    services: ServicesRequest -> ServicesResponse;
    endpoints: EndpointsRequest -> EndpointsResponse;
    identities: IdentitiesRequest -> IdentitiesResponse;
    traces: TracesRequest -> TracesResponse;
    trace: TraceRequest -> TraceResponse;
    explain: ExplainRequest -> ExplainResponse;
    why: WhyRequest -> WhyResponse;
    test_policy: TestPolicyRequest -> TestPolicyResponse;
    list_tokens: ListTokensRequest -> ListTokensResponse;
    create_token: CreateTokenRequest -> CreateTokenResponse;
    revoke_token: RevokeTokenRequest -> RevokeTokenResponse;
    ca_status: CaStatusRequest -> CaStatusResponse;
    rotate_ca: RotateCaRequest -> CaStatusResponse;
    revoke_identity: RevokeIdentityRequest -> RevokeIdentityResponse;
    restore_identity: RestoreIdentityRequest -> RestoreIdentityResponse;
    list_revocations: ListRevocationsRequest -> ListRevocationsResponse;
    stat: StatRequest -> StatResponse;
    graph: GraphRequest -> GraphResponse;
    ask_sidecar: AskSidecarRequest -> AskSidecarResponse;
}

impl Admin {
    pub(crate) async fn tap(
        &mut self,
        request: v1::TapRequest,
    ) -> Result<tonic::Streaming<v1::TapSeen>, Status> {
        let (request, ()) = with_bearer(&self.token, (Request::new(request), ()));
        self.client.tap(request).await.map(tonic::Response::into_inner)
    }

    /// Everything that is kept.
    pub(crate) async fn back_up(&mut self) -> Result<Vec<u8>, Status> {
        let (request, ()) = with_bearer(&self.token, (Request::new(v1::BackupRequest {}), ()));
        let mut chunks = self.client.backup(request).await?.into_inner();
        let mut text = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            text.extend(chunk.data);
        }
        Ok(text)
    }

    pub(crate) async fn apply_text(&mut self, text: &str) -> v1::ApplyResponse {
        let files = vec![v1::SourceFile { name: "mesh.yaml".into(), text: text.into() }];
        self.apply(v1::ApplyRequest { files, author: "tester".into(), ..Default::default() }).await.unwrap()
    }

    /// The one sidecar of this name, if it is listed.
    pub(crate) async fn sidecar(&mut self, workload: &str) -> Option<v1::SidecarStatus> {
        let status = self.status(v1::StatusRequest::default()).await.unwrap();
        status.sidecars.into_iter().find(|sidecar| sidecar.workload == workload)
    }
}

/// Asks again and again until the answer is yes.
pub(crate) async fn eventually(what: &str, ask: impl AsyncFnMut() -> bool) {
    eventually_within(PATIENCE, what, ask).await;
}

/// The same for what takes its time.
pub(crate) async fn eventually_within(patience: Duration, what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut again = interval(Duration::from_millis(20));
        while !ask().await {
            again.tick().await;
        }
    };
    timeout(patience, asking).await.unwrap_or_else(|_| panic!("in vain: {what}"));
}
