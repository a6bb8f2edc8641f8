//! Join tokens: compact JWTs (RFC 7519, HS256) that say who their holder becomes and what it may offer.
//!
//! The signature proves that we made it; the store says whether it is still good.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use weft_core::model::{Name, TrustDomain};

use crate::store::{Embedded, Grant, StoreError, Token, TokenUse};

/// Whom these tokens are for.
const AUDIENCE: &str = "weft";
/// No token of ours is longer.
const LONGEST: usize = 16 << 10;
/// The only header that is made, and taken: there is no choice of algorithm to get wrong (RFC 8725 section 3.1).
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

/// Why a token was not taken. Both sides log it.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No three parts of base64, or JSON that is not ours.
    #[error("this is no join token: {0}")]
    Malformed(&'static str),
    /// Tampered with, or of another mesh.
    #[error("the token's signature is wrong: it was changed, or made by another control plane")]
    Signature,
    /// For somebody else.
    #[error("the token is for {found}, this is {expected}")]
    Elsewhere {
        /// The token's trust domain or audience.
        found: String,
        /// Ours.
        expected: String,
    },
    /// Too late.
    #[error("the token expired at {0}; `weft token create` makes a new one")]
    Expired(Timestamp),
    /// Not in the store.
    #[error("token {0} is unknown here; `weft token create` makes a new one")]
    Unknown(String),
    /// Taken back.
    #[error("token {0} was revoked")]
    Revoked(String),
    /// Used as often as it may.
    #[error("token {0} has no uses left")]
    UsedUp(String),
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    Random,
    /// A lifetime beyond the end of time.
    #[error("a token cannot live that long")]
    Lifetime,
    /// The store did not answer.
    #[error("the token cannot be checked")]
    Store(#[from] StoreError),
}

/// What a new token is to say.
#[derive(Debug, Clone)]
pub(crate) struct TokenRequest {
    /// Whom the holder becomes.
    pub namespace: Name,
    /// Whom the holder becomes.
    pub service_account: Name,
    /// What it may offer.
    pub services: BTreeSet<Name>,
    /// Its labels, where they are pinned.
    pub labels: BTreeMap<String, String>,
    /// How long it is good.
    pub ttl: Duration,
    /// How often it may be used; none: any number.
    pub uses: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    jti: String,
    iss: String,
    aud: String,
    ns: String,
    sa: String,
    svc: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    exp: i64,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    key: hmac::Key,
    trust_domain: TrustDomain,
    store: Embedded,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Tokens {
    /// With the key from the store, made at the first start.
    pub(crate) async fn open(store: Embedded, trust_domain: TrustDomain) -> Result<Self, TokenError> {
        let key = store.keep_secret("token-key", random::<32>()?.to_vec()).await?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), trust_domain, store })
    }

    /// Makes a token; returns it and its id.
    pub(crate) async fn create(
        &self,
        wanted: TokenRequest,
        now: SystemTime,
    ) -> Result<(String, String), TokenError> {
        let id = hex(&random::<10>()?);
        let expires = now.checked_add(wanted.ttl).ok_or(TokenError::Lifetime)?;
        let exp = Timestamp::try_from(expires).map_err(|_| TokenError::Lifetime)?.as_second();
        let services: BTreeSet<String> = wanted.services.iter().map(ToString::to_string).collect();
        let claims = Claims {
            jti: id.clone(),
            iss: self.trust_domain.to_string(),
            aud: AUDIENCE.into(),
            ns: wanted.namespace.to_string(),
            sa: wanted.service_account.to_string(),
            svc: services.clone(),
            labels: wanted.labels.clone(),
            exp,
        };
        let token = Token {
            id: id.clone(),
            namespace: wanted.namespace.to_string(),
            service_account: wanted.service_account.to_string(),
            grant: Grant { services, labels: wanted.labels },
            expires,
            uses_left: wanted.uses,
            revoked: false,
        };
        self.store.keep_token(&token).await?;
        let body = serde_json::to_vec(&claims).map_err(|e| StoreError::Record("a token", e))?;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(HEADER), URL_SAFE_NO_PAD.encode(body));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        Ok((format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)), id))
    }

    /// Checks a token and spends one use of it.
    pub(crate) async fn redeem(&self, text: &str, now: SystemTime) -> Result<Token, TokenError> {
        let claims = self.verify(text)?;
        let expected = self.trust_domain.to_string();
        if claims.iss != expected {
            return Err(TokenError::Elsewhere { found: claims.iss, expected });
        }
        if claims.aud != AUDIENCE {
            return Err(TokenError::Elsewhere { found: claims.aud, expected: AUDIENCE.into() });
        }
        let expires =
            Timestamp::from_second(claims.exp).map_err(|_| TokenError::Malformed("no such expiry time"))?;
        if SystemTime::from(expires) <= now {
            return Err(TokenError::Expired(expires));
        }
        match self.store.spend_token(&claims.jti).await? {
            TokenUse::Spent(token) => Ok(token),
            TokenUse::Unknown => Err(TokenError::Unknown(claims.jti)),
            TokenUse::Revoked => Err(TokenError::Revoked(claims.jti)),
            TokenUse::UsedUp => Err(TokenError::UsedUp(claims.jti)),
        }
    }

    fn verify(&self, text: &str) -> Result<Claims, TokenError> {
        if text.len() > LONGEST {
            return Err(TokenError::Malformed("too long"));
        }
        let parts = text.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, body) = signed.split_once('.')?;
            Some((signed, header, body, signature))
        });
        let (signed, header, body, signature) =
            parts.ok_or(TokenError::Malformed("not three parts with dots between"))?;
        let decode =
            |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Malformed("not base64url"));
        let signature = decode(signature)?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).map_err(|_| TokenError::Signature)?;
        if decode(header)? != HEADER.as_bytes() {
            return Err(TokenError::Malformed("not signed with HS256"));
        }
        serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed("not our claims"))
    }
}

/// Random bytes for keys and ids.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], TokenError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| TokenError::Random)?;
    Ok(bytes)
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(dir: &std::path::Path) -> Tokens {
        let store = Embedded::open(dir).unwrap();
        Tokens::open(store, "mesh.local".parse().unwrap()).await.unwrap()
    }

    fn wanted() -> TokenRequest {
        TokenRequest {
            namespace: "default".parse().unwrap(),
            service_account: "orders".parse().unwrap(),
            services: ["orders".parse().unwrap()].into(),
            labels: [("tier".into(), "back".into())].into(),
            ttl: Duration::from_secs(60),
            uses: None,
        }
    }

    #[tokio::test]
    async fn a_token_gives_what_it_was_made_for() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path()).await;
        let now = SystemTime::now();
        let (text, id) = tokens.create(wanted(), now).await.unwrap();
        let token = tokens.redeem(&text, now).await.unwrap();
        assert_eq!(
            (token.id, token.namespace.as_str(), token.service_account.as_str()),
            (id, "default", "orders")
        );
        assert_eq!(token.grant.services, ["orders".to_owned()].into());
        assert_eq!(token.grant.labels, wanted().labels);
    }

    #[tokio::test]
    async fn every_bad_token_is_refused_for_its_own_reason() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path()).await;
        let now = SystemTime::now();
        let (text, id) = tokens.create(wanted(), now).await.unwrap();
        let refused = async |text: &str, now| tokens.redeem(text, now).await.unwrap_err();

        assert!(matches!(refused("", now).await, TokenError::Malformed(_)));
        assert!(matches!(refused("a.b", now).await, TokenError::Malformed(_)));
        assert!(matches!(refused(&"x".repeat(LONGEST + 1), now).await, TokenError::Malformed(_)));
        let (signed, signature) = text.rsplit_once('.').unwrap();
        let (header, body) = signed.split_once('.').unwrap();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(body).unwrap()).unwrap();
        let forged = URL_SAFE_NO_PAD.encode(claims.replace("orders", "payments"));
        assert!(matches!(
            refused(&format!("{header}.{forged}.{signature}"), now).await,
            TokenError::Signature
        ));
        assert!(matches!(refused(&format!("{signed}."), now).await, TokenError::Signature));
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        assert!(matches!(refused(&format!("{none}.{body}."), now).await, TokenError::Signature));
        let late = now + Duration::from_secs(61);
        assert!(matches!(refused(&text, late).await, TokenError::Expired(_)));
        tokens.store.revoke_token(&id).await.unwrap();
        assert!(matches!(refused(&text, now).await, TokenError::Revoked(_)));
        tokens.store.prune_tokens(now + Duration::from_secs(99)).await.unwrap();
        assert!(matches!(refused(&text, now).await, TokenError::Unknown(_)));

        let elsewhere = tempfile::tempdir().unwrap();
        let others = open(elsewhere.path()).await;
        assert!(matches!(others.redeem(&text, now).await.unwrap_err(), TokenError::Signature));
    }
}
