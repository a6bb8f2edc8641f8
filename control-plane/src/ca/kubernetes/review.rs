//! Service-account tokens proved by the API server: a TokenReview (authentication.k8s.io/v1) for each.

use std::fs;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::source::Server;
use super::{KubernetesError, ServiceAccount};
use crate::keys::trust;

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// No answer is longer.
const LARGEST: usize = 64 << 10;
/// No token is longer.
const LONGEST: usize = 16 << 10;
/// Reviews at once: whoever makes up tokens decides on their number.
const AT_ONCE: usize = 8;

type Failure = Box<dyn std::error::Error + Send + Sync>;

pub(super) struct Review {
    server: Server,
    places: Semaphore,
}

impl Review {
    pub(super) fn new(server: Server) -> Self {
        Self { server, places: Semaphore::new(AT_ONCE) }
    }

    pub(super) async fn prove(&self, token: &str) -> Result<ServiceAccount, KubernetesError> {
        if token.len() > LONGEST {
            return Err(KubernetesError::Flaw(weft_core::jwt::Flaw::TooLong));
        }
        let asking = async {
            let _place = self.places.acquire().await?;
            self.ask(token).await
        };
        let answer =
            timeout(PATIENCE, asking).await.map_err(|late| KubernetesError::Unavailable(late.into()))?;
        self.read(&answer.map_err(KubernetesError::Unavailable)?)
    }

    fn read(&self, answer: &Value) -> Result<ServiceAccount, KubernetesError> {
        let status = answer.get("status").ok_or(KubernetesError::Claims("the review has no status"))?;
        if status.get("authenticated") != Some(&Value::Bool(true)) {
            let reason = status.get("error").and_then(Value::as_str).unwrap_or("it gives no reason");
            return Err(KubernetesError::Rejected(reason.chars().take(200).collect()));
        }
        // An API server that knows nothing of audiences says so by naming none: such a token may be for anybody.
        let ours = |audience: &Value| audience.as_str() == Some(self.server.audience.as_str());
        if !status.get("audiences").and_then(Value::as_array).is_some_and(|of| of.iter().any(ours)) {
            return Err(KubernetesError::Flaw(weft_core::jwt::Flaw::WrongAudience));
        }
        ServiceAccount::of_review(status.get("user").unwrap_or(&Value::Null))
    }

    async fn ask(&self, token: &str) -> Result<Value, Failure> {
        let uri: Uri = self.server.api.parse()?;
        let host = uri.host().ok_or("the API server's address has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = trust(&self.server.api, &fs::read_to_string(&self.server.ca)?)?;
        let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
        let stream = tls.connect(ServerName::try_from(host)?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = self.request(&uri, token)?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            if !status.is_success() {
                return Err(Failure::from(format!("the API server answers {status}")));
            }
            let body = Limited::new(response.into_body(), LARGEST).collect().await?.to_bytes();
            Ok(serde_json::from_slice(&body)?)
        };
        tokio::select! {
            answer = exchange => answer,
            Err(error) = connection => Err(error.into()),
        }
    }

    fn request(&self, uri: &Uri, token: &str) -> Result<Request<Full<Bytes>>, Failure> {
        let mut own: HeaderValue =
            format!("Bearer {}", fs::read_to_string(&self.server.token)?.trim()).parse()?;
        own.set_sensitive(true);
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self.server.audience]},
        });
        let authority = uri.authority().ok_or("the API server's address has no host")?;
        let request = Request::post("/apis/authentication.k8s.io/v1/tokenreviews")
            .header(HOST, authority.as_str())
            .header(AUTHORIZATION, own)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        Ok(request.body(Full::from(review.to_string()))?)
    }
}
