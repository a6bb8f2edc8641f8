//! `retries` and `hedging` of a `TrafficPolicy`.

use std::time::Duration;

use super::decode::{Field, Object};
use super::node::Value;
use super::value::parse_duration;
use crate::model::{
    GRPC_FAILURES, HedgeAfter, HedgingLayer, Ratio, RetriesLayer, RetryMethods, RetryOn, StatusCode,
};

const MAX_ATTEMPTS: u32 = 10;
const MAX_BODY: u32 = 1024 * 1024;
const MAX_WINDOW: Duration = Duration::from_mins(1);
const MAX_PER_SECOND: u32 = 1_000_000;
const MAX_HEDGES: u32 = 3;

const ON: &str = "write 5xx, gateway-error, connect-failure, reset, refused-stream, a status such as 503, or grpc:unavailable";

pub(super) fn read_retries(field: &Field<'_>) -> Option<RetriesLayer> {
    let object =
        field.object(&["attempts", "on", "perTryTimeout", "backoff", "budget", "maxBodyBytes", "methods"])?;
    let within = |object: &Object<'_>, name, range| object.field(name).and_then(|field| field.integer(range));
    let backoff = object.field("backoff").and_then(|field| field.object(&["base", "max"]));
    let (base, max) = backoff.as_ref().map_or((None, None), read_backoff);
    let budget = object.field("budget");
    let budget = budget.and_then(|field| field.object(&["ratio", "minPerSecond", "window"]));
    Some(RetriesLayer {
        attempts: within(&object, "attempts", 0..=MAX_ATTEMPTS),
        on: object.field("on").and_then(|field| read_on(&field)),
        per_try: object.field("perTryTimeout").and_then(|field| field.duration()),
        base,
        max,
        ratio: budget.as_ref().and_then(|budget| budget.field("ratio")?.ratio()),
        min_per_second: budget.as_ref().and_then(|budget| within(budget, "minPerSecond", 0..=MAX_PER_SECOND)),
        window: budget.as_ref().and_then(read_window),
        max_body: within(&object, "maxBodyBytes", 0..=MAX_BODY),
        methods: object.field("methods").and_then(|field| read_methods(&field)),
    })
}

fn read_backoff(backoff: &Object<'_>) -> (Option<Duration>, Option<Duration>) {
    let base = backoff.field("base").and_then(|field| field.duration());
    let max_field = backoff.field("max");
    let max = max_field.as_ref().and_then(Field::duration);
    if let (Some(base), Some(max), Some(field)) = (base, max, max_field)
        && max < base
    {
        field.mistake("is less than base", "write the longer one");
    }
    (base, max)
}

fn read_window(budget: &Object<'_>) -> Option<Duration> {
    let field = budget.field("window")?;
    let window = field.duration()?;
    let fits = (Duration::from_secs(1)..=MAX_WINDOW).contains(&window);
    if !fits {
        field.mistake("is not from 1s to 1m", "write a duration such as 10s");
    }
    fits.then_some(window)
}

fn read_on(field: &Field<'_>) -> Option<Vec<RetryOn>> {
    let (mut found, items) = (Vec::new(), field.list()?);
    if items.is_empty() {
        field.mistake("names nothing", "write at least one, or attempts: 0 for no further try");
    }
    for item in items {
        let Some(text) = item.spelling() else {
            item.mistake("is no reason to try again", ON);
            continue;
        };
        match reason(&text) {
            Some(on) if found.contains(&on) => {
                item.mistake(format!("{text} is there twice"), "keep one of them")
            }
            Some(on) => found.push(on),
            None => item.mistake(format!("{text:?} is no reason to try again"), ON),
        }
    }
    (!found.is_empty()).then_some(found)
}

fn reason(text: &str) -> Option<RetryOn> {
    let named = match text {
        "5xx" => Some(RetryOn::ServerErrors),
        "gateway-error" => Some(RetryOn::GatewayErrors),
        "connect-failure" => Some(RetryOn::ConnectFailure),
        "reset" => Some(RetryOn::Reset),
        "refused-stream" => Some(RetryOn::RefusedStream),
        _ => None,
    };
    let grpc = || text.strip_prefix("grpc:").and_then(grpc_status).map(RetryOn::Grpc);
    let status =
        || text.parse().ok().and_then(|code: u32| StatusCode::try_from(code).ok()).map(RetryOn::Status);
    named.or_else(grpc).or_else(status)
}

/// A status of gRPC by its number, or by its name however it is spelt.
fn grpc_status(text: &str) -> Option<u8> {
    let name = text.to_ascii_lowercase().replace('_', "-");
    let named = (1_u8..).zip(GRPC_FAILURES).find(|(_, known)| *known == name).map(|(code, _)| code);
    named.or_else(|| text.parse().ok().filter(|code| (1..=16).contains(code)))
}

fn read_methods(field: &Field<'_>) -> Option<RetryMethods> {
    if !matches!(field.node().value, Value::List(_)) {
        let words = [("idempotent", RetryMethods::Idempotent), ("any", RetryMethods::Any)];
        let words: Vec<(&str, &RetryMethods)> =
            words.iter().map(|(word, methods)| (*word, methods)).collect();
        return field.choice(&words).cloned();
    }
    let methods = field.list()?;
    let method = |field: &Field<'_>| {
        let text = field.text()?;
        let is_method =
            !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-');
        if !is_method {
            field.mistake(format!("{text:?} is no method"), "write it in upper case, such as GET");
        }
        is_method.then(|| text.to_owned())
    };
    Some(RetryMethods::These(methods.iter().filter_map(method).collect()))
}

pub(super) fn read_hedging(field: &Field<'_>) -> Option<HedgingLayer> {
    let object = field.object(&["after", "max"])?;
    Some(HedgingLayer {
        after: object.field("after").and_then(|field| read_after(&field)),
        max: object.field("max").and_then(|field| field.integer(1..=MAX_HEDGES)),
    })
}

/// A time, or `p95`: as long as so many of a hundred answers took.
fn read_after(field: &Field<'_>) -> Option<HedgeAfter> {
    let text = field.text()?;
    let share = text.strip_prefix('p').and_then(|share| format!("{share}%").parse::<Ratio>().ok());
    match (share, parse_duration(text)) {
        (Some(share), _) if share >= Ratio::percent(50) && share < Ratio::WHOLE => {
            Some(HedgeAfter::Quantile(share))
        }
        (None, Ok(time)) if !time.is_zero() => Some(HedgeAfter::Time(time)),
        _ => {
            let message = format!("{text:?} is neither a time nor a percentile from p50 on");
            field.mistake(message, "write a time such as 50ms, or p95");
            None
        }
    }
}
