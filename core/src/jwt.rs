//! JSON Web Tokens (RFC 7519): which of them prove something, and what. Signatures are checked by whoever asks.
//!
//! Nothing that a token says is believed before its signature is proved, but who issued it: that says whose keys to try. Keys
//! come from the policy alone, never from the token, and each is for its own kind of algorithm.

mod claims;
mod flaw;
mod json;
mod keys;
mod place;

pub use claims::Claims;
pub use flaw::Flaw;
pub use keys::{KeySetError, read_key_set};
pub use place::{Carried, strip_parameter};

use std::time::Duration;

use serde_json::{Map, Value};

use crate::model::{Algorithm, TokenKey, TokenProvider};

/// The longest token that is looked at.
pub const LONGEST: usize = 16 * 1024;

/// Keys that are tried for a token that names none.
const MOST_TRIED: usize = 8;

/// What a token proved.
#[derive(Debug)]
pub struct Proved<'p> {
    /// Who issued it.
    pub provider: &'p TokenProvider,
    /// What it says.
    pub claims: Claims,
    /// Until when it is good, in time since 1970.
    pub until: Duration,
}

/// Checks a signature: with a key, by an algorithm that it is for, of a message.
pub type Check<'c> = &'c dyn Fn(&TokenKey, Algorithm, &[u8], &[u8]) -> bool;

/// Says what a token proves at a time since 1970, if it is one of these providers'.
pub fn prove<'p>(
    token: &str,
    providers: impl Iterator<Item = &'p TokenProvider>,
    now: Duration,
    check: Check<'_>,
) -> Result<Proved<'p>, Flaw> {
    let parts = Parts::read(token)?;
    let claims = json::object(&json::decode(parts.payload)?)?;
    let issuer = match claims.get("iss") {
        Some(Value::String(issuer)) => issuer,
        Some(_) => return Err(Flaw::ClaimType("iss")),
        None => return Err(Flaw::WrongIssuer),
    };
    let provider = providers.into_iter().find(|provider| provider.issuer == *issuer);
    let provider = provider.ok_or(Flaw::WrongIssuer)?;
    parts.check(&provider.keys, check)?;
    let until = check_claims(&claims, provider, now)?;
    Ok(Proved { provider, claims: Claims::new(claims), until })
}

/// A token's parts (RFC 7515 section 7.1), its header read.
struct Parts<'t> {
    signed: &'t str,
    payload: &'t str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl<'t> Parts<'t> {
    fn read(token: &'t str) -> Result<Self, Flaw> {
        if token.len() > LONGEST {
            return Err(Flaw::TooLong);
        }
        let parts: Vec<&str> = token.splitn(6, '.').collect();
        let (header, payload, signature) = match parts[..] {
            [header, payload, signature] => (header, payload, signature),
            // RFC 7516 section 3.1.
            [_, _, _, _, _] => return Err(Flaw::Encrypted),
            _ => return Err(Flaw::NotCompact),
        };
        let signed = token.get(..header.len() + 1 + payload.len()).ok_or(Flaw::NotCompact)?;
        let said = json::object(&json::decode(header)?)?;
        let (algorithm, key_id) = read_header(&said)?;
        let signature = json::decode(signature)?;
        if signature.is_empty() {
            return Err(Flaw::BadSignature);
        }
        Ok(Self { signed, payload, signature, algorithm, key_id })
    }

    fn check(&self, keys: &[TokenKey], check: Check<'_>) -> Result<(), Flaw> {
        if keys.is_empty() {
            return Err(Flaw::NoKeys);
        }
        let named = |key: &&TokenKey| self.key_id.is_none() || key.id == self.key_id;
        let mut named = keys.iter().filter(named).peekable();
        if named.peek().is_none() {
            return Err(Flaw::UnknownKey);
        }
        let is_for = |key: &&TokenKey| {
            self.algorithm.takes(&key.material) && key.algorithm.is_none_or(|only| only == self.algorithm)
        };
        let mut suited = named.filter(is_for).take(MOST_TRIED).peekable();
        if suited.peek().is_none() {
            return Err(Flaw::WrongKey);
        }
        let proves = |key: &TokenKey| check(key, self.algorithm, self.signed.as_bytes(), &self.signature);
        if suited.any(proves) { Ok(()) } else { Err(Flaw::BadSignature) }
    }
}

/// Of a header (RFC 7515 section 4.1) the algorithm and the key's name. What would have us understand more is refused; keys that it
/// brings along or points to are never looked at.
fn read_header(said: &Map<String, Value>) -> Result<(Algorithm, Option<String>), Flaw> {
    let Some(Value::String(algorithm)) = said.get("alg") else { return Err(Flaw::NoAlgorithm) };
    if algorithm.eq_ignore_ascii_case("none") {
        return Err(Flaw::Unsigned);
    }
    if algorithm.get(..2).is_some_and(|begin| begin.eq_ignore_ascii_case("HS")) {
        return Err(Flaw::SharedSecret);
    }
    let algorithm = algorithm.parse().map_err(|_| Flaw::UnknownAlgorithm)?;
    // RFC 7515 section 4.1.11, RFC 7797 section 3.
    if said.contains_key("crit") || said.contains_key("b64") {
        return Err(Flaw::Critical);
    }
    let kind = |name: &str| match said.get(name) {
        None => Ok(None),
        Some(Value::String(kind)) => {
            let kind = kind.to_ascii_lowercase();
            Ok(Some(kind.strip_prefix("application/").map(str::to_owned).unwrap_or(kind)))
        }
        Some(_) => Err(Flaw::WrongType),
    };
    // A token within a token (RFC 7519 section 5.2).
    if kind("cty")?.is_some() {
        return Err(Flaw::Nested);
    }
    // What is signed for another purpose is no proof of access (RFC 8725 section 3.11).
    if kind("typ")?.is_some_and(|kind| !["jwt", "at+jwt", "jose"].contains(&kind.as_str())) {
        return Err(Flaw::WrongType);
    }
    match said.get("kid") {
        None => Ok((algorithm, None)),
        Some(Value::String(id)) => Ok((algorithm, Some(id.clone()))),
        Some(_) => Err(Flaw::UnknownKey),
    }
}

/// Checks what was proved against what is wanted (RFC 7519 section 4.1): until when it is good.
fn check_claims(
    claims: &Map<String, Value>,
    provider: &TokenProvider,
    now: Duration,
) -> Result<Duration, Flaw> {
    let until = moment(claims, "exp")?.ok_or(Flaw::NoExpiry)?.saturating_add(provider.skew);
    if until <= now {
        return Err(Flaw::Expired);
    }
    let latest = now.saturating_add(provider.skew);
    if moment(claims, "nbf")?.is_some_and(|begin| begin > latest) {
        return Err(Flaw::NotYet);
    }
    if moment(claims, "iat")?.is_some_and(|issued| issued > latest) {
        return Err(Flaw::IssuedLater);
    }
    let is_ours = |audience: &Value| {
        audience.as_str().is_some_and(|audience| provider.audiences.iter().any(|ours| ours == audience))
    };
    match claims.get("aud") {
        None => Err(Flaw::WrongAudience),
        Some(Value::Array(audiences)) if !audiences.iter().all(Value::is_string) => {
            Err(Flaw::ClaimType("aud"))
        }
        Some(Value::Array(audiences)) if audiences.iter().any(is_ours) => Ok(until),
        Some(audience @ Value::String(_)) if is_ours(audience) => Ok(until),
        Some(Value::Array(_) | Value::String(_)) => Err(Flaw::WrongAudience),
        Some(_) => Err(Flaw::ClaimType("aud")),
    }
}

/// A `NumericDate` (RFC 7519 section 2): seconds since 1970, which may have a fraction. What is before 1970 is no time at all.
fn moment(claims: &Map<String, Value>, name: &'static str) -> Result<Option<Duration>, Flaw> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_u64() {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => {
                let seconds = number.as_f64().ok_or(Flaw::ClaimType(name))?;
                Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| Flaw::ClaimType(name))
            }
        },
        Some(_) => Err(Flaw::ClaimType(name)),
    }
}
