//! explain.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::Status;
use weft_certs::is_signed;
use weft_core::explain::{self, ExplainError, Explanation, Question, RequestAsked, TokenAsked};
use weft_proto::v1;

use super::{AdminService, namespace};

impl AdminService {
    pub(crate) async fn explain(&self, request: v1::ExplainRequest) -> Result<v1::ExplainResponse, Status> {
        let default = namespace(&request.namespace)?;
        let (namespace, account) = explain::account(&request.from, &default).map_err(|e| mistake(&e))?;
        let is_asked = !(request.method.is_empty() && request.path.is_empty() && request.headers.is_empty());
        let or = |text: String, usual: &str| if text.is_empty() { usual.to_owned() } else { text };
        let header = |field: v1::Field| (field.name.to_ascii_lowercase(), field.value);
        let asked = RequestAsked {
            method: or(request.method, "GET"),
            path: or(request.path, "/"),
            headers: request.headers.into_iter().map(header).collect(),
        };
        let question = Question {
            namespace: &namespace,
            account: &account,
            to: &request.to,
            request: is_asked.then_some(asked),
            now: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            token: TokenAsked::Shown(&is_signed),
        };
        let told = self.world.read(|known| explain::explain(known, &question)).map_err(|e| mistake(&e))?;
        Ok(response(told, self.world.revision()))
    }
}

fn mistake(error: &ExplainError) -> Status {
    match error {
        ExplainError::NoService(..) => Status::not_found(error.to_string()),
        ExplainError::NoAccount(_)
        | ExplainError::NoName(_)
        | ExplainError::NoPort(..)
        | ExplainError::WhichPort(..) => Status::invalid_argument(error.to_string()),
    }
}

fn response(told: Explanation, revision: u64) -> v1::ExplainResponse {
    let named = |(name, value): (&'static str, String)| (name.to_owned(), value);
    v1::ExplainResponse {
        decision: told.decision.as_str().to_owned(),
        status: told.status.map(u32::from).unwrap_or_default(),
        error: told.error.to_owned(),
        route: told.route,
        rule: told.rule,
        backend: told.backend,
        backends: told
            .backends
            .into_iter()
            .map(|(backend, share)| v1::BackendShare { backend, share })
            .collect(),
        mirrors: told.mirrors,
        policy: told
            .policy
            .into_iter()
            .map(|told| v1::AppliedPolicy { policy: told.policy, does: told.does, place: told.place })
            .collect(),
        timeouts: told.timeouts.into_iter().map(named).collect(),
        retries: told.retries.into_iter().map(named).collect(),
        endpoints: told.endpoints.into_iter().map(candidate).collect(),
        steps: told
            .steps
            .into_iter()
            .map(|step| v1::Step { stage: step.stage.to_owned(), text: step.text, source: step.source })
            .collect(),
        revision,
    }
}

fn candidate(told: explain::Candidate) -> v1::Candidate {
    v1::Candidate {
        workload: told.workload,
        address: told.address,
        identity: told.identity,
        zone: told.zone,
        priority: u32::try_from(told.priority).unwrap_or_default(),
        denied: told.denied,
    }
}
