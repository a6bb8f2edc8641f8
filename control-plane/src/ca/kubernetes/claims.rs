//! What a service-account token says of its holder, once it is proved.

use serde_json::Value;
use weft_core::jwt::Claims;
use weft_core::model::Name;

use super::KubernetesError;

/// How the API server calls service accounts among its users.
const USER: &str = "system:serviceaccount:";
/// Where it says, of a token that is bound to a pod, to which.
const POD: &str = "authentication.kubernetes.io/pod-name";

/// A service account, and the pod that its token is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    pub(crate) pod: Option<String>,
}

impl ServiceAccount {
    /// As a token's claims say.
    pub(super) fn of_claims(claims: &Claims) -> Result<Self, KubernetesError> {
        let subject = claims.text(&["sub"]).ok_or(KubernetesError::Claims("it has no subject"))?;
        let account = Self::of_user(subject)?;
        let within = |path: &[&str]| claims.text(&[&["kubernetes.io"], path].concat()).map(str::to_owned);
        let agrees = |said: Option<String>, name: &Name| said.is_none_or(|said| said == name.as_str());
        if !agrees(within(&["namespace"]), &account.namespace)
            || !agrees(within(&["serviceaccount", "name"]), &account.name)
        {
            return Err(KubernetesError::Claims("its subject and its claims are of different accounts"));
        }
        Ok(Self { pod: within(&["pod", "name"]), ..account })
    }

    /// As the `user` of a TokenReview says.
    pub(super) fn of_review(user: &Value) -> Result<Self, KubernetesError> {
        let name = user.get("username").and_then(Value::as_str);
        let account = Self::of_user(name.ok_or(KubernetesError::Claims("it has no user"))?)?;
        let pod = user.get("extra").and_then(|extra| extra.get(POD)?.get(0)?.as_str());
        Ok(Self { pod: pod.map(str::to_owned), ..account })
    }

    fn of_user(user: &str) -> Result<Self, KubernetesError> {
        let account = user.strip_prefix(USER).and_then(|account| account.split_once(':'));
        let (namespace, name) = account.ok_or(KubernetesError::Claims("it is not a service account's"))?;
        let read =
            |name: &str| name.parse().map_err(|_| KubernetesError::Claims("its account's name is none"));
        Ok(Self { namespace: read(namespace)?, name: read(name)?, pod: None })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_review_names_account_and_pod() {
        let user = |name: &str| json!({"username": name, "extra": {POD: ["web-7"]}});
        let account = ServiceAccount::of_review(&user("system:serviceaccount:shop:web")).unwrap();
        assert_eq!((account.namespace.as_str(), account.name.as_str()), ("shop", "web"));
        assert_eq!(account.pod.as_deref(), Some("web-7"));
        let unbound = json!({"username": "system:serviceaccount:shop:web"});
        assert_eq!(ServiceAccount::of_review(&unbound).unwrap().pod, None);
        for other in [
            "admin",
            "system:serviceaccount:shop",
            "system:serviceaccount::web",
            "system:serviceaccount:a:b:c",
        ] {
            assert!(ServiceAccount::of_review(&user(other)).is_err(), "{other}");
        }
        assert!(ServiceAccount::of_review(&json!({})).is_err());
    }
}
