//! Stage 5, tokens: what a request's token proves, before anything else is ruled of it. What is decided, [`weft_core::jwt`] decides; here
//! signatures are checked and what was proved is remembered for a while.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use http::header::{HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use weft_certs::is_signed;
use weft_core::jwt::{Carried, Claims, Flaw, Proved, prove, strip_parameter};
use weft_core::model::{Forwarding, Presence, TokenKey, TokenPlace, TokenPolicy, TokenProvider, Workload};

use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::http::head::{Fields, Head, Value};
use crate::session::{Answer, Explained};
use crate::worker::Worker;

/// Proved tokens that a worker remembers.
const REMEMBERED: usize = 512;

/// How often at most new keys are asked for.
const ASKED: Duration = Duration::from_secs(5);

/// The longest of them. They and what they say may take up a few times as much.
const LONGEST_REMEMBERED: usize = 4 * 1024;

/// Whether calls to a port must carry a token.
pub fn are_required(workload: &Workload, port: u16) -> bool {
    workload.token_policy(port).is_some_and(|policy| policy.presence == Presence::Required)
}

/// Says what a request's token proves; nothing, where it has none and need not have one. What the app is to see of it is put right
/// in its head.
pub fn authenticate(
    worker: &Worker,
    port: u16,
    head: &mut impl Head,
    exchange: &mut Exchange,
) -> Result<Option<Rc<Claims>>, Answer> {
    let snapshot = worker.discovery.peek();
    let Some(workload) = &snapshot.workload else { return Ok(None) };
    let Some(policy) = workload.token_policy(port) else { return Ok(None) };
    judge(worker, policy, head, &mut |outcome| {
        worker.observer.token_judged(&policy.name, outcome);
        exchange.note("weft.token.policy", &policy.name);
        exchange.note("weft.token.outcome", &outcome);
    })
}

/// What a request's token says of the service that our app calls, for a route to be chosen by; nothing, where it has none or that
/// proves nothing. Whether it is let in is not ruled here: the server's sidecar judges it as if nobody had.
pub fn read(worker: &Worker, policy: &Arc<TokenPolicy>, head: &impl Head) -> Option<Rc<Claims>> {
    let proved = carried(policy, head)
        .only()
        .and_then(|found| found.map(|(place, token)| worker.proved.recall(policy, place, token)).transpose());
    match proved {
        Ok(proved) => proved.map(|proved| proved.claims),
        Err(flaw) => {
            worker.ask_for_keys(policy, flaw);
            tracing::debug!(policy = %policy.name, reason = flaw.as_str(), "a token proves nothing to routes");
            None
        }
    }
}

fn carried<'p>(policy: &'p TokenPolicy, head: &impl Head) -> Carried<'p> {
    Carried::find(&policy.providers, head.query(), |name, see| {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            head.fields().all(&name).for_each(see);
        }
    })
}

impl Worker {
    /// Has new keys looked for, where a token names one that is not known.
    fn ask_for_keys(&self, policy: &TokenPolicy, flaw: Flaw) {
        if flaw == Flaw::UnknownKey && self.proved.may_ask() {
            policy.providers.iter().for_each(|provider| self.discovery.key_is_unknown(&provider.issuer));
        }
    }
}

fn judge(
    worker: &Worker,
    policy: &Arc<TokenPolicy>,
    head: &mut impl Head,
    told: &mut dyn FnMut(&'static str),
) -> Result<Option<Rc<Claims>>, Answer> {
    let refuse = |flaw: Option<Flaw>, told: &mut dyn FnMut(&'static str)| {
        told(flaw.map_or("missing", Flaw::as_str));
        Err(answer(policy, flaw))
    };
    let carried = carried(policy, head);
    let found = match carried.only() {
        Ok(found) => found,
        Err(flaw) => return refuse(Some(flaw), told),
    };
    // Nobody but us says these.
    for (_, name) in policy.providers.iter().flat_map(|provider| &provider.claim_headers) {
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            head.fields_mut().remove(&name);
        }
    }
    let Some((place, token)) = found else {
        return match policy.presence {
            Presence::Required => refuse(None, told),
            Presence::Optional => Ok(None),
        };
    };
    let proved = worker.proved.recall(policy, place, token);
    match proved {
        Ok(proved) => {
            told("proved");
            let provider = policy.providers.get(proved.provider);
            if let Some(provider) = provider {
                show(provider, place, &proved.claims, head)?;
            }
            Ok(Some(proved.claims))
        }
        Err(flaw) => {
            worker.ask_for_keys(policy, flaw);
            tracing::debug!(policy = %policy.name, reason = flaw.as_str(), "a token is refused");
            refuse(Some(flaw), told)
        }
    }
}

/// Makes of a request's head what the app is to see of its token.
fn show(
    provider: &TokenProvider,
    place: &TokenPlace,
    claims: &Claims,
    head: &mut impl Head,
) -> Result<(), ErrorCode> {
    for (claim, name) in &provider.claim_headers {
        if let (Some(text), Ok(name)) = (claims.in_header(claim), HeaderName::from_bytes(name.as_bytes())) {
            head.fields_mut().append(&name, Value::Once(text.as_bytes()));
        }
    }
    if provider.forwarding == Forwarding::Keep {
        return Ok(());
    }
    match place {
        TokenPlace::Header { name, .. } => {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                head.fields_mut().remove(&name);
            }
            Ok(())
        }
        TokenPlace::Parameter(name) => {
            let mut target = head.path().to_owned();
            if let Some(rest) = head.query().and_then(|query| strip_parameter(query, name)) {
                target.push('?');
                target.push_str(&rest);
            }
            head.set_target(target.as_bytes())
        }
    }
}

/// What a request is answered whose token is missing or proves nothing (RFC 6750 section 3). Without a token nothing is said of
/// errors.
fn answer(policy: &TokenPolicy, flaw: Option<Flaw>) -> Answer {
    let realm = &policy.name;
    let (code, said) = match flaw {
        None => (ErrorCode::Unauthenticated, format!("Bearer realm=\"{realm}\"")),
        Some(flaw) => {
            let (code, error) = match flaw {
                Flaw::Several => (ErrorCode::BadRequest, "invalid_request"),
                _ => (ErrorCode::Unauthenticated, "invalid_token"),
            };
            (code, format!("Bearer realm=\"{realm}\", error=\"{error}\", error_description=\"{flaw}\""))
        }
    };
    let mut fields = HeaderMap::new();
    if let Ok(said) = HeaderValue::try_from(said) {
        fields.insert(WWW_AUTHENTICATE, said);
    }
    Answer::Explained(Box::new(Explained { code, fields }))
}

/// Tokens that were proved, so that they need not be again: by their digest, until they expire or the policies change.
#[derive(Debug, Default)]
pub struct ProvedTokens {
    known: RefCell<HashMap<Key, Token>>,
    /// How many signatures were checked.
    checked: Cell<u64>,
    /// When it was last asked for a key.
    asked: Cell<Option<Instant>>,
}

/// What a token is remembered by, for what is said of it differs by policy and place: its digest, where the policy is in memory,
/// and the place's number in it.
type Key = ([u8; 32], usize, usize);

/// What a token proved.
#[derive(Debug, Clone)]
struct Token {
    /// Under which policy. No other is made where it was for as long as this stands here.
    policy: Weak<TokenPolicy>,
    /// Its provider's number.
    provider: usize,
    claims: Rc<Claims>,
    until: Duration,
}

impl ProvedTokens {
    /// Whether new keys may be asked for: not as often as tokens are made up.
    fn may_ask(&self) -> bool {
        let now = Instant::now();
        let may = self.asked.get().is_none_or(|last| now.duration_since(last) >= ASKED);
        if may {
            self.asked.set(Some(now));
        }
        may
    }

    fn recall(&self, policy: &Arc<TokenPolicy>, place: &TokenPlace, token: &str) -> Result<Token, Flaw> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let key = key(policy, place, token);
        let known = self.known.borrow();
        if let Some(found) = key.and_then(|key| known.get(&key)).filter(|found| found.until > now) {
            return Ok(found.clone());
        }
        drop(known);
        let check = |key: &TokenKey, algorithm, message: &[u8], signature: &[u8]| {
            self.checked.set(self.checked.get() + 1);
            is_signed(key, algorithm, message, signature)
        };
        let Proved { provider, claims, until } = prove(token, policy.at(place), now, &check)?;
        let provider = policy.providers.iter().position(|other| std::ptr::eq(other, provider));
        let (provider, claims) = (provider.unwrap_or_default(), Rc::new(claims));
        let proved = Token { policy: Arc::downgrade(policy), provider, claims, until };
        if let Some(key) = key {
            self.remember(key, proved.clone(), now);
        }
        Ok(proved)
    }

    /// Of too many those go first that are of no use, then what is over soonest.
    fn remember(&self, key: Key, token: Token, now: Duration) {
        let mut known = self.known.borrow_mut();
        if known.len() >= REMEMBERED {
            known.retain(|_, token| token.until > now && token.policy.strong_count() > 0);
        }
        if known.len() >= REMEMBERED {
            let soonest = known.iter().min_by_key(|(_, token)| token.until).map(|(key, _)| *key);
            soonest.and_then(|key| known.remove(&key));
        }
        known.insert(key, token);
    }
}

fn key(policy: &Arc<TokenPolicy>, place: &TokenPlace, token: &str) -> Option<Key> {
    if token.len() > LONGEST_REMEMBERED {
        return None;
    }
    let mut places = policy.providers.iter().flat_map(|provider| &provider.places);
    let place = places.position(|other| other == place)?;
    let bytes = digest(&SHA256, token.as_bytes()).as_ref().try_into().ok()?;
    Some((bytes, Arc::as_ptr(policy).addr(), place))
}

#[cfg(test)]
mod tests;
