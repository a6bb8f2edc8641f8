//! proxy config, metrics, drain, log-level: asked of a sidecar by way of its stream.

use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use weft_core::model::QualifiedName;
use weft_proto::v1::{self, ask::What};

use super::{AdminService, name, namespace};
use crate::asks::AskError;
use crate::store::Role;

/// For another control plane to answer, whose sidecar has less.
const PATIENCE: Duration = Duration::from_secs(6);

impl AdminService {
    /// Asks a sidecar, wherever it is connected.
    pub(super) async fn ask_sidecar(
        &self,
        request: v1::AskSidecarRequest,
    ) -> Result<v1::AskSidecarResponse, Status> {
        let elsewhere = self.registry.list().into_iter().map(|listed| listed.registration).find(|it| {
            it.workload == request.workload
                && namespace(&request.namespace).is_ok_and(|namespace| it.namespace == namespace.as_str())
        });
        let elsewhere = elsewhere.and_then(|registration| self.together.client_of(&registration.replica));
        match elsewhere {
            Some(mut client) => match timeout(PATIENCE, client.ask_sidecar(request)).await {
                Ok(answered) => answered.map(tonic::Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("the control plane of the sidecar gave no answer")),
            },
            None => self.ask_here(request).await,
        }
    }

    /// Asks a sidecar that is connected to us.
    pub(crate) async fn ask_here(
        &self,
        request: v1::AskSidecarRequest,
    ) -> Result<v1::AskSidecarResponse, Status> {
        let workload =
            QualifiedName::new(namespace(&request.namespace)?, name("workload", &request.workload)?);
        let what = request.ask.and_then(|ask| ask.what);
        let what = what.ok_or_else(|| Status::invalid_argument("nothing is asked"))?;
        let answer = self.live.asks().ask(&workload, what).await.map_err(|error| status(&error))?;
        let text = String::from_utf8_lossy(&answer.text).into_owned();
        match answer.status {
            200..300 => Ok(v1::AskSidecarResponse { text }),
            400 => Err(Status::invalid_argument(text.trim())),
            status => {
                Err(Status::failed_precondition(format!("the sidecar answered {status}: {}", text.trim())))
            }
        }
    }
}

/// Who looks on may ask; who changes something is an operator.
pub(super) fn wants(request: &v1::AskSidecarRequest) -> Role {
    match request.ask.as_ref().and_then(|ask| ask.what.as_ref()) {
        Some(What::Config(_) | What::Metrics(_)) | None => Role::Viewer,
        Some(What::LogLevel(level)) if level.is_empty() => Role::Viewer,
        Some(What::Drain(_) | What::LogLevel(_)) => Role::Operator,
    }
}

fn status(error: &AskError) -> Status {
    let reason = error.to_string();
    match error {
        AskError::Absent(_) => Status::not_found(reason),
        AskError::Busy(_) => Status::resource_exhausted(reason),
        AskError::Silent(_) => Status::deadline_exceeded(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_a_sidecar_is_an_operator() {
        for (what, role) in [
            (What::Config(true), Role::Viewer),
            (What::Metrics(true), Role::Viewer),
            (What::LogLevel(String::new()), Role::Viewer),
            (What::LogLevel("debug".into()), Role::Operator),
            (What::Drain(true), Role::Operator),
        ] {
            let ask = Some(v1::Ask { id: 0, what: Some(what) });
            let request = v1::AskSidecarRequest { ask, ..Default::default() };
            assert_eq!(wants(&request), role, "{request:?}");
        }
    }
}
