//! The control plane's Admin service, reached over TLS with the identity behind it checked.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use weft_proto::v1::admin_client::AdminClient;

use crate::target::Target;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// The most that one answer may hold; the largest are traces and listings.
const ANSWER_LIMIT: usize = 64 * 1024 * 1024;

/// The Admin service.
pub(crate) type Admin = AdminClient<InterceptedService<Channel, Bearer>>;

/// Adds the administrator's token to every call.
#[derive(Clone)]
pub(crate) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// Connects to the first of the target's control planes that answers.
pub(crate) async fn connect(target: &Target) -> anyhow::Result<Admin> {
    let (anchors, expected) = target.anchors()?;
    let tls = weft_certs::anchored_client_config(&anchors, &expected, &[weft_certs::alpn::H2])?;
    let mut bearer: MetadataValue<Ascii> = format!("Bearer {}", target.token()?)
        .parse()
        .with_context(|| format!("{}: not a token", target.token.display()))?;
    bearer.set_sensitive(true);

    let admin = AdminClient::with_interceptor(reach(target, tls).await?, Bearer(bearer));
    Ok(admin.max_decoding_message_size(ANSWER_LIMIT))
}

/// A connection to the first of the target's control planes that answers.
pub(crate) async fn reach(target: &Target, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let mut failed = anyhow!("no control plane is named");
    for url in &target.urls {
        match connect_to(url, tls.clone()).await {
            Ok(channel) => return Ok(channel),
            Err(error) if error.to_string().contains("UnknownIssuer") => {
                failed = error.context(format!(
                    "the control plane at {url} does not lead to the roots in {}: if the mesh has moved to another root, fetch its ca.pem anew",
                    target.ca.display()
                ));
            }
            Err(error) => failed = error.context(format!("cannot reach the control plane at {url}")),
        }
    }
    Err(failed.context("is it running? (name another with --control-plane)"))
}

async fn connect_to(url: &str, tls: Arc<ClientConfig>) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.timeout(CALL_TIMEOUT);
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = TlsConnector::from(tls.clone());
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
            let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(7443))).await?;
            stream.set_nodelay(true)?;
            // Who must answer is the SPIFFE identity; the name only says where we meant to go.
            let name = ServerName::try_from(host.to_owned()).map_err(std::io::Error::other)?;
            tls.connect(name, stream).await.map(TokioIo::new)
        }
    });
    let connecting = endpoint.connect_with_connector(connector);
    let channel = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .map_err(|_| anyhow!("no answer within {CONNECT_TIMEOUT:?}"))?;
    channel.map_err(|error| anyhow!("{}", innermost(&error)))
}

/// The message of an answer, or why there is none.
pub(crate) fn answer<T>(answered: Result<Response<T>, Status>) -> anyhow::Result<T> {
    answered.map(Response::into_inner).map_err(|status| explain(&status))
}

/// Why there is no answer.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    let said = match status.source() {
        Some(source) => innermost(source),
        None => status.message().to_owned(),
    };
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            anyhow!("the control plane refused the token: {said} (name another with --token-file)")
        }
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
            anyhow!("the control plane gave no answer: {said}")
        }
        Code::NotFound | Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => {
            anyhow!(said)
        }
        code => anyhow!("the control plane failed ({code:?}): {said}"),
    }
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: &Status, expected: &str) {
        assert_eq!(explain(status).to_string(), expected);
    }

    #[test]
    fn refusals_say_what_to_do() {
        check(&Status::not_found("no service web"), "no service web");
        check(
            &Status::unauthenticated("it is revoked"),
            "the control plane refused the token: it is revoked (name another with --token-file)",
        );
        check(&Status::unavailable("closed"), "the control plane gave no answer: closed");
        check(&Status::internal("disk full"), "the control plane failed (Internal): disk full");
    }
}
