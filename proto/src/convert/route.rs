//! Routes: rules, matches, backends and policies.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use weft_core::model;

use super::{ConvertError, port_from_wire, qualified};
use crate::v1;

impl TryFrom<v1::Route> for model::Route {
    type Error = ConvertError;

    fn try_from(wire: v1::Route) -> Result<Self, ConvertError> {
        use v1::route::Rules;
        let rules = match wire.rules.ok_or(ConvertError::Missing("routes.rules"))? {
            Rules::Http(rules) => model::RouteRules::Http(all(rules.rules)?),
            Rules::Grpc(rules) => model::RouteRules::Grpc(all(rules.rules)?),
            Rules::Tls(rules) => model::RouteRules::Tls {
                hosts: parsed_all("routes.hosts", &rules.hosts)?,
                backends: all(rules.backends)?,
            },
            Rules::Tcp(rules) => model::RouteRules::Tcp(all(rules.backends)?),
        };
        let port = |port: &u32| port_from_wire("routes.ports", *port);
        Ok(Self {
            name: qualified("routes.name", &wire.name)?,
            ports: wire.ports.iter().map(port).collect::<Result<_, _>>()?,
            rules,
            traffic: wire.traffic.map(TryInto::try_into).transpose()?.map(Arc::new),
        })
    }
}

impl TryFrom<v1::HttpRule> for model::HttpRule {
    type Error = ConvertError;

    fn try_from(wire: v1::HttpRule) -> Result<Self, ConvertError> {
        Ok(Self {
            name: wire.name,
            matches: all(wire.matches)?,
            filters: wire.filters.unwrap_or_default().try_into()?,
            backends: all(wire.backends)?,
            policy: wire.policy.unwrap_or_default().try_into()?,
        })
    }
}

impl TryFrom<v1::HttpMatch> for model::HttpMatch {
    type Error = ConvertError;

    fn try_from(wire: v1::HttpMatch) -> Result<Self, ConvertError> {
        use v1::http_match::Path;
        let text = |text: Option<v1::TextMatch>| text.map(TryInto::try_into).transpose();
        let path = match wire.path {
            None => None,
            Some(Path::Exact(path)) => Some(model::PathMatch::Exact(parsed("path.exact", &path)?)),
            Some(Path::Prefix(path)) => Some(model::PathMatch::Prefix(parsed("path.prefix", &path)?)),
            Some(Path::Regex(text)) => Some(model::PathMatch::Regex(parsed("path.regex", &text)?)),
            Some(Path::Rpc(rpc)) => {
                Some(model::PathMatch::Rpc { service: text(rpc.service)?, method: text(rpc.method)? })
            }
        };
        let method = match wire.method.as_str() {
            "" => None,
            name => Some(method(name)?),
        };
        let (mut headers, mut claims) = (Vec::new(), Vec::new());
        for field in wire.headers {
            let value = field.value.ok_or(ConvertError::Missing("headers.value"))?.try_into()?;
            match model::ClaimName::of_match(&field.name) {
                Some(claim) => {
                    let name = claim.map_err(|_| ConvertError::Pattern("headers.name", field.name))?;
                    claims.push(model::FieldMatch { name, value });
                }
                None => headers.push(model::FieldMatch { name: parsed("headers.name", &field.name)?, value }),
            }
        }
        let parameter = |field: v1::FieldMatch| {
            let value = field.value.ok_or(ConvertError::Missing("query.value"))?.try_into()?;
            Ok(model::FieldMatch { name: field.name, value })
        };
        Ok(Self {
            path,
            method,
            headers,
            claims,
            query: wire.query.into_iter().map(parameter).collect::<Result<_, ConvertError>>()?,
        })
    }
}

impl TryFrom<v1::TextMatch> for model::TextMatch {
    type Error = ConvertError;

    fn try_from(wire: v1::TextMatch) -> Result<Self, ConvertError> {
        Ok(match wire.text.ok_or(ConvertError::Missing("text"))? {
            v1::text_match::Text::Exact(text) => Self::Exact(text),
            v1::text_match::Text::Regex(text) => Self::Regex(parsed("regex", &text)?),
        })
    }
}

impl TryFrom<v1::Backend> for model::Backend {
    type Error = ConvertError;

    fn try_from(wire: v1::Backend) -> Result<Self, ConvertError> {
        Ok(Self {
            target: wire.target.ok_or(ConvertError::Missing("backends.target"))?.try_into()?,
            weight: wire.weight,
            filters: wire.filters.unwrap_or_default().try_into()?,
        })
    }
}

impl TryFrom<v1::BackendTarget> for model::BackendTarget {
    type Error = ConvertError;

    fn try_from(wire: v1::BackendTarget) -> Result<Self, ConvertError> {
        use v1::backend_target::Target;
        Ok(match wire.target.ok_or(ConvertError::Missing("target"))? {
            Target::Service(target) => Self::Service(
                qualified("target.service", &target.service)?,
                port_from_wire("target.port", target.port)?,
            ),
            Target::Nowhere(why) => match v1::Nowhere::try_from(why) {
                Ok(v1::Nowhere::OtherKind) => Self::OtherKind,
                Ok(v1::Nowhere::NotPermitted) => Self::NotPermitted,
                Ok(v1::Nowhere::Unspecified) | Err(_) => return Err(ConvertError::Unknown("nowhere", why)),
            },
        })
    }
}

impl TryFrom<v1::RoutePolicy> for model::RoutePolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::RoutePolicy) -> Result<Self, ConvertError> {
        Ok(Self {
            request_timeout: wire.request_timeout_ms.map(Duration::from_millis),
            backend_timeout: wire.backend_timeout_ms.map(Duration::from_millis),
            retry: wire.retry.map(TryInto::try_into).transpose()?,
            session: wire.session.map(TryInto::try_into).transpose()?,
        })
    }
}

impl TryFrom<v1::RetryPolicy> for model::RetryPolicy {
    type Error = ConvertError;

    fn try_from(wire: v1::RetryPolicy) -> Result<Self, ConvertError> {
        let code = |code: u32| {
            model::StatusCode::try_from(code).map_err(|_| ConvertError::Range("retry.codes", code.into()))
        };
        Ok(Self {
            attempts: wire.attempts,
            codes: wire.codes.into_iter().map(code).collect::<Result<_, _>>()?,
            backoff: wire.backoff_ms.map(Duration::from_millis),
        })
    }
}

impl TryFrom<v1::SessionPersistence> for model::SessionPersistence {
    type Error = ConvertError;

    fn try_from(wire: v1::SessionPersistence) -> Result<Self, ConvertError> {
        use model::{CookieLifetime, SessionKey};
        let key = match v1::SessionKey::try_from(wire.key) {
            Ok(v1::SessionKey::SessionCookie) => SessionKey::Cookie(CookieLifetime::Session),
            Ok(v1::SessionKey::PermanentCookie) => SessionKey::Cookie(CookieLifetime::Permanent),
            Ok(v1::SessionKey::Header) => SessionKey::Header,
            Err(_) => return Err(ConvertError::Unknown("session.key", wire.key)),
        };
        Ok(Self {
            name: wire.name,
            key,
            absolute: wire.absolute_ms.map(Duration::from_millis),
            idle: wire.idle_ms.map(Duration::from_millis),
        })
    }
}

impl From<&model::Route> for v1::Route {
    fn from(route: &model::Route) -> Self {
        use v1::route::Rules;
        let rules =
            |rules: &[model::HttpRule]| v1::HttpRules { rules: rules.iter().map(Into::into).collect() };
        let backends = |backends: &[model::Backend]| backends.iter().map(Into::into).collect();
        let rules = match &route.rules {
            model::RouteRules::Http(http) => Rules::Http(rules(http)),
            model::RouteRules::Grpc(grpc) => Rules::Grpc(rules(grpc)),
            model::RouteRules::Tls { hosts, backends: to } => Rules::Tls(v1::TlsRules {
                hosts: hosts.iter().map(ToString::to_string).collect(),
                backends: backends(to),
            }),
            model::RouteRules::Tcp(to) => Rules::Tcp(v1::TcpRules { backends: backends(to) }),
        };
        Self {
            name: route.name.to_string(),
            ports: route.ports.iter().copied().map(Into::into).collect(),
            rules: Some(rules),
            traffic: route.traffic.as_deref().map(Into::into),
        }
    }
}

impl From<&model::HttpRule> for v1::HttpRule {
    fn from(rule: &model::HttpRule) -> Self {
        Self {
            name: rule.name.clone(),
            matches: rule.matches.iter().map(Into::into).collect(),
            filters: (!rule.filters.is_empty()).then(|| (&rule.filters).into()),
            backends: rule.backends.iter().map(Into::into).collect(),
            policy: (rule.policy != model::RoutePolicy::default()).then(|| (&rule.policy).into()),
        }
    }
}

impl From<&model::HttpMatch> for v1::HttpMatch {
    fn from(wanted: &model::HttpMatch) -> Self {
        use v1::http_match::Path;
        let path = wanted.path.as_ref().map(|path| match path {
            model::PathMatch::Exact(path) => Path::Exact(path.as_str().to_owned()),
            model::PathMatch::Prefix(path) => Path::Prefix(path.as_str().to_owned()),
            model::PathMatch::Regex(pattern) => Path::Regex(pattern.as_str().to_owned()),
            model::PathMatch::Rpc { service, method } => Path::Rpc(v1::Rpc {
                service: service.as_ref().map(Into::into),
                method: method.as_ref().map(Into::into),
            }),
        });
        let header = |field: &model::FieldMatch<model::HeaderName>| v1::FieldMatch {
            name: field.name.as_str().to_owned(),
            value: Some((&field.value).into()),
        };
        // One that does not know of claims finds no such header.
        let claim = |field: &model::FieldMatch<model::ClaimName>| v1::FieldMatch {
            name: field.name.as_match(),
            value: Some((&field.value).into()),
        };
        let parameter = |field: &model::FieldMatch<String>| v1::FieldMatch {
            name: field.name.clone(),
            value: Some((&field.value).into()),
        };
        Self {
            path,
            method: wanted.method.map(|method| method.as_str().to_owned()).unwrap_or_default(),
            headers: wanted.headers.iter().map(header).chain(wanted.claims.iter().map(claim)).collect(),
            query: wanted.query.iter().map(parameter).collect(),
        }
    }
}

impl From<&model::TextMatch> for v1::TextMatch {
    fn from(text: &model::TextMatch) -> Self {
        let text = match text {
            model::TextMatch::Exact(text) => v1::text_match::Text::Exact(text.clone()),
            model::TextMatch::Regex(pattern) => v1::text_match::Text::Regex(pattern.as_str().to_owned()),
        };
        Self { text: Some(text) }
    }
}

impl From<&model::Backend> for v1::Backend {
    fn from(backend: &model::Backend) -> Self {
        Self {
            target: Some((&backend.target).into()),
            weight: backend.weight,
            filters: (!backend.filters.is_empty()).then(|| (&backend.filters).into()),
        }
    }
}

impl From<&model::BackendTarget> for v1::BackendTarget {
    fn from(target: &model::BackendTarget) -> Self {
        use v1::backend_target::Target;
        let target = match target {
            model::BackendTarget::Service(name, port) => {
                Target::Service(v1::ServiceTarget { service: name.to_string(), port: (*port).into() })
            }
            model::BackendTarget::OtherKind => Target::Nowhere(v1::Nowhere::OtherKind.into()),
            model::BackendTarget::NotPermitted => Target::Nowhere(v1::Nowhere::NotPermitted.into()),
        };
        Self { target: Some(target) }
    }
}

impl From<&model::RoutePolicy> for v1::RoutePolicy {
    fn from(policy: &model::RoutePolicy) -> Self {
        use model::{CookieLifetime, SessionKey};
        let session = |session: &model::SessionPersistence| v1::SessionPersistence {
            name: session.name.clone(),
            key: match session.key {
                SessionKey::Cookie(CookieLifetime::Session) => v1::SessionKey::SessionCookie,
                SessionKey::Cookie(CookieLifetime::Permanent) => v1::SessionKey::PermanentCookie,
                SessionKey::Header => v1::SessionKey::Header,
            }
            .into(),
            absolute_ms: session.absolute.map(millis),
            idle_ms: session.idle.map(millis),
        };
        let retry = |retry: &model::RetryPolicy| v1::RetryPolicy {
            attempts: retry.attempts,
            codes: retry.codes.iter().map(|code| code.code().into()).collect(),
            backoff_ms: retry.backoff.map(millis),
        };
        Self {
            request_timeout_ms: policy.request_timeout.map(millis),
            backend_timeout_ms: policy.backend_timeout.map(millis),
            retry: policy.retry.as_ref().map(retry),
            session: policy.session.as_ref().map(session),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads each of a list.
pub(super) fn all<W, M: TryFrom<W, Error = ConvertError>>(wire: Vec<W>) -> Result<Vec<M>, ConvertError> {
    wire.into_iter().map(TryInto::try_into).collect()
}

/// Reads a text of a form of its own.
pub(super) fn parsed<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T, ConvertError> {
    text.parse().map_err(|error: T::Err| ConvertError::Route(field, error.to_string()))
}

/// Reads each of a list of texts.
pub(super) fn parsed_all<T: FromStr<Err: Display>>(
    field: &'static str,
    texts: &[String],
) -> Result<Vec<T>, ConvertError> {
    texts.iter().map(|text| parsed(field, text)).collect()
}

pub(super) fn method(name: &str) -> Result<model::Method, ConvertError> {
    let known = model::Method::ALL.into_iter().find(|(known, _)| *known == name);
    let unknown = || ConvertError::Route("method", format!("{name:?} is none"));
    known.map(|(_, method)| method).ok_or_else(unknown)
}
