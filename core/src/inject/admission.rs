//! An admission review of a pod (`admission.k8s.io/v1`) -> what is answered.

use serde_json::{Value, json};

use super::{BadAnnotation, Injection, NotInjected, Settings, into_pod, text};

/// What is answered to a review.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Which review.
    pub uid: String,
    /// What is done with its object.
    pub what: Decision,
}

/// What is done with the object of a review.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is changed by these operations (RFC 6902).
    Patch(Vec<Value>),
    /// It stays as it is; where that may surprise, why.
    Leave(Option<NotInjected>),
    /// It is refused.
    Refuse(BadAnnotation),
}

/// A review that nothing can be answered to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadReview {
    /// Not one at all.
    #[error("this is no AdmissionReview of admission.k8s.io/v1")]
    NotOne,
    /// Without the name that an answer must repeat.
    #[error("the review's request has no uid")]
    NoUid,
    /// Not about a pod.
    #[error("the review is of no pod: only CREATE of v1 Pod is answered")]
    NoPod,
}

/// Decides about the pod that a review is about.
pub fn review(review: &Value, settings: &Settings) -> Result<Verdict, BadReview> {
    let is_one = text(review, "kind") == Some("AdmissionReview")
        && text(review, "apiVersion") == Some("admission.k8s.io/v1");
    let request = review.get("request").filter(|_| is_one).ok_or(BadReview::NotOne)?;
    let uid = text(request, "uid").filter(|uid| !uid.is_empty()).ok_or(BadReview::NoUid)?.to_owned();
    let kind = request.get("kind").ok_or(BadReview::NoPod)?;
    if (text(kind, "group").unwrap_or_default(), text(kind, "kind")) != ("", Some("Pod")) {
        return Err(BadReview::NoPod);
    }
    if text(request, "operation") != Some("CREATE") {
        return Ok(Verdict { uid, what: Decision::Leave(None) });
    }
    let pod = request.get("object").filter(|pod| pod.is_object()).ok_or(BadReview::NoPod)?;
    let part = |key: &str| pod.get(key).unwrap_or(&Value::Null);
    let what = match into_pod(part("metadata"), part("spec"), settings) {
        Ok(Injection::Changes(changes)) => {
            Decision::Patch(changes.iter().flat_map(|change| change.to_patch(pod)).collect())
        }
        // Whoever asked for it knows.
        Ok(Injection::Not(NotInjected::Already | NotInjected::Disabled)) => Decision::Leave(None),
        Ok(Injection::Not(reason)) => Decision::Leave(Some(reason)),
        Err(bad) => Decision::Refuse(bad),
    };
    Ok(Verdict { uid, what })
}

impl Verdict {
    /// As the API server is answered.
    pub fn to_json(&self) -> Value {
        use base64::Engine as _;
        let mut response = json!({"uid": self.uid, "allowed": !matches!(self.what, Decision::Refuse(_))});
        let more = match &self.what {
            Decision::Patch(patch) => {
                let patch = Value::from(patch.clone()).to_string();
                let patch = base64::engine::general_purpose::STANDARD.encode(patch);
                json!({"patchType": "JSONPatch", "patch": patch})
            }
            Decision::Leave(None) => json!({}),
            Decision::Leave(Some(reason)) => {
                json!({"warnings": [format!("weft: the pod gets no sidecar: {reason}")]})
            }
            Decision::Refuse(bad) => {
                json!({"status": {"status": "Failure", "reason": "Invalid", "code": 422, "message": format!("weft: {bad}")}})
            }
        };
        if let (Some(response), Value::Object(more)) = (response.as_object_mut(), more) {
            response.extend(more);
        }
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }
}
