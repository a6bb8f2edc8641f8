//! `timeouts`, `retry`, `sessionPersistence`.

use std::time::Duration;

use super::super::decode::{Field, Object};
use super::super::value::parse_duration;
use super::items;
use crate::model::{
    CookieLifetime, HeaderName, RetryPolicy, RoutePolicy, SessionKey, SessionPersistence, StatusCode,
};

const CODES: usize = 64;

pub(super) fn read(rule: &Object<'_>) -> RoutePolicy {
    let mut policy = RoutePolicy::default();
    if let Some(field) = rule.field("timeouts") {
        (policy.request_timeout, policy.backend_timeout) = read_timeouts(&field);
    }
    policy.retry = rule.field("retry").and_then(|field| read_retry(&field));
    policy.session = rule.field("sessionPersistence").and_then(|field| read_session(&field));
    policy
}

fn read_timeouts(field: &Field<'_>) -> (Option<Duration>, Option<Duration>) {
    let Some(object) = field.object(&["request", "backendRequest"]) else { return (None, None) };
    let request = object.field("request").and_then(|field| duration(&field));
    let each = object.field("backendRequest");
    let backend = each.as_ref().and_then(duration);
    if let (Some(request), Some(backend), Some(each)) = (request, backend, each)
        && !request.is_zero()
        && backend > request
    {
        each.mistake("one try may not take longer than the whole request", "write a shorter one");
    }
    (request, backend)
}

fn read_retry(field: &Field<'_>) -> Option<RetryPolicy> {
    let object = field.object(&["codes", "attempts", "backoff"])?;
    let mut codes = Vec::new();
    for field in items(&object, "codes", CODES) {
        let Some(code) = field.integer(400..=599) else { continue };
        match StatusCode::try_from(code) {
            Ok(code) if codes.contains(&code) => {
                field.mistake(format!("{code} is there twice"), "keep one of them")
            }
            Ok(code) => codes.push(code),
            Err(error) => field.mistake(error, "write a status from 400 to 599"),
        }
    }
    Some(RetryPolicy {
        attempts: object.field("attempts").and_then(|field| field.integer(0..=100)),
        codes,
        backoff: object.field("backoff").and_then(|field| duration(&field)),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Cookie,
    Header,
}

fn read_session(field: &Field<'_>) -> Option<SessionPersistence> {
    let fields = ["sessionName", "absoluteTimeout", "idleTimeout", "type", "cookieConfig"];
    let object = field.object(&fields)?;
    let types = [("Cookie", Type::Cookie), ("Header", Type::Header)];
    let kind = object.field("type").map_or(Some(Type::Cookie), |field| field.choice(&types))?;
    let name = object.field("sessionName");
    // A cookie's name is a token as well (RFC 6265 section 4.1.1), but its case counts.
    let name = name.filter(|name| name.parse::<HeaderName>("write a name such as session").is_some());
    let name = name.and_then(|field| field.text()).map(str::to_owned);
    let absolute = object.field("absoluteTimeout").and_then(|field| duration(&field));
    let idle = object.field("idleTimeout").and_then(|field| duration(&field));
    let cookie = object.field("cookieConfig");
    let lifetimes = [("Session", CookieLifetime::Session), ("Permanent", CookieLifetime::Permanent)];
    let lifetime = cookie
        .as_ref()
        .and_then(|field| field.object(&["lifetimeType"])?.field("lifetimeType")?.choice(&lifetimes));
    if lifetime == Some(CookieLifetime::Permanent) && absolute.is_none() {
        field.mistake("a permanent cookie needs an end", "write absoluteTimeout");
    }
    let key = match kind {
        Type::Cookie => SessionKey::Cookie(lifetime.unwrap_or_default()),
        Type::Header => {
            if let Some(cookie) = cookie {
                cookie.mistake("this is for sessions in cookies", "take it out, or write type: Cookie");
            }
            SessionKey::Header
        }
    };
    Some(SessionPersistence { name, key, absolute, idle })
}

fn duration(field: &Field<'_>) -> Option<Duration> {
    match parse_duration(field.text()?) {
        Ok(duration) => Some(duration),
        Err(error) => {
            field.mistake(error, "write a duration such as 250ms or 10s");
            None
        }
    }
}
