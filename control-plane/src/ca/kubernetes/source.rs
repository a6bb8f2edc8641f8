//! `--kubernetes-tokens`: who vouches for service-account tokens.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a pod finds what it needs to call the API server.
const IN_CLUSTER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Whom tokens are for, where nobody says otherwise; what `weft inject` asks for.
const AUDIENCE: &str = "weft";

/// Who vouches for service-account tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// Whoever issues them, by keys.
    Issuer(Issuer),
    /// The API server, by its word on each.
    Review(Server),
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issuer {
    /// As tokens name it.
    pub(super) issuer: String,
    /// Whom tokens must be for.
    pub(super) audience: String,
    /// The file with its keys; none: they are asked for where the issuer says (OpenID Connect Discovery).
    pub(super) jwks: Option<PathBuf>,
    /// The authorities that vouch for whoever is asked; none: the public ones.
    pub(super) ca: Option<PathBuf>,
}

/// An API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `https://HOST:PORT`.
    pub(super) api: String,
    /// The authority that vouches for it.
    pub(super) ca: PathBuf,
    /// Our own token for it; read anew each time.
    pub(super) token: PathBuf,
    /// Whom tokens must be for.
    pub(super) audience: String,
}

impl FromStr for TokenSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut said, mut reviews) = (BTreeMap::new(), false);
        for part in text.split(',') {
            match part.split_once('=') {
                None if part == "review" => reviews = true,
                Some((key, value)) if !value.is_empty() => {
                    if said.insert(key, value.to_owned()).is_some() {
                        return Err(format!("{key} is there twice"));
                    }
                }
                _ => return Err(format!("{part:?} is neither review nor of the form KEY=VALUE")),
            }
        }
        let audience = said.remove("audience").unwrap_or_else(|| AUDIENCE.to_owned());
        let ca = said.remove("ca").map(PathBuf::from);
        let source = if reviews {
            let beside = |name: &str| PathBuf::from(IN_CLUSTER).join(name);
            let api = said.remove("api").map_or_else(in_cluster, Ok)?;
            if !api.starts_with("https://") {
                return Err(format!("{api} is no https address"));
            }
            let token = said.remove("token").map_or_else(|| beside("token"), PathBuf::from);
            Self::Review(Server { api, ca: ca.unwrap_or_else(|| beside("ca.crt")), token, audience })
        } else {
            let issuer = said.remove("issuer").ok_or("issuer=URL or review is missing")?;
            let jwks = said.remove("jwks").map(PathBuf::from);
            if jwks.is_none() && !issuer.starts_with("https://") {
                return Err(format!("{issuer} is no https address to ask for keys: add jwks=FILE"));
            }
            Self::Issuer(Issuer { issuer, audience, jwks, ca })
        };
        match said.keys().next() {
            Some(key) => Err(format!("{key} does not belong there")),
            None => Ok(source),
        }
    }
}

/// The API server of the cluster that we run in.
fn in_cluster() -> Result<String, String> {
    let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (host, port) = (said("KUBERNETES_SERVICE_HOST"), said("KUBERNETES_SERVICE_PORT"));
    match (host, port) {
        (Some(host), Some(port)) if host.contains(':') => Ok(format!("https://[{host}]:{port}")),
        (Some(host), Some(port)) => Ok(format!("https://{host}:{port}")),
        _ => Err("outside of a cluster, api=https://HOST:PORT, ca=FILE and token=FILE are needed".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_with_their_defaults() {
        let read = |text: &str| text.parse::<TokenSource>();
        let TokenSource::Issuer(issuer) = read("issuer=https://k.example,audience=mesh").unwrap() else {
            panic!()
        };
        assert_eq!((issuer.audience.as_str(), issuer.jwks), ("mesh", None));
        let TokenSource::Issuer(issuer) = read("issuer=kubernetes/serviceaccount,jwks=/k.json").unwrap()
        else {
            panic!()
        };
        assert_eq!((issuer.audience.as_str(), issuer.jwks), ("weft", Some("/k.json".into())));
        let TokenSource::Review(server) = read("review,api=https://h:6443").unwrap() else { panic!() };
        assert_eq!(server.ca, PathBuf::from("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"));
        for (text, reason) in [
            ("", "neither review nor"),
            ("review,api=http://h", "no https address"),
            ("issuer=me", "add jwks=FILE"),
            ("audience=x", "issuer=URL or review is missing"),
            ("issuer=https://a,issuer=https://b", "twice"),
            ("issuer=https://a,token=/t", "token does not belong"),
        ] {
            assert!(read(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
