//! Tokens that we make: compact JWTs (RFC 7519, HS256). A join token says who its holder becomes and what it may offer, an
//! administrator's what its holder may ask of us; neither is good for the other.
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

use crate::store::{Grant, Role, Store, StoreError, Token, TokenUse};

/// What join tokens are for.
const JOINING: &str = "weft";
/// What administrators' are for.
const ADMINISTRATION: &str = "weft-admin";
/// No administrator's token lives longer: there is always another to be made.
const LONGEST_ADMINISTRATION: Duration = Duration::from_hours(90 * 24);
/// No token of ours is longer.
const LONGEST: usize = 16 << 10;
/// The only headers that are made, and taken: there is no choice of algorithm to get wrong (RFC 8725 section 3.1), and what is for
/// administrators says so (section 3.11).
const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;
const ADMINISTRATION_HEADER: &str = r#"{"alg":"HS256","typ":"weft-admin+jwt"}"#;

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
    #[error("a token cannot live that long; an administrator's lives 2160h at most")]
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

/// What every token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    jti: String,
    iss: String,
    aud: String,
    exp: i64,
    #[serde(flatten)]
    holder: Holder,
}

/// Of whom.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Holder {
    Joins(Joins),
    Administers { role: Role },
}

#[derive(Debug, Serialize, Deserialize)]
struct Joins {
    ns: String,
    sa: String,
    svc: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
}

/// Who calls as an administrator, as far as the token itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Administrator {
    pub(crate) role: Role,
    /// The token; none: it is the admin token, which is not revoked.
    pub(crate) token: Option<String>,
}

/// Makes and checks tokens.
pub(crate) struct Tokens {
    key: hmac::Key,
    trust_domain: TrustDomain,
    store: Store,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

impl Tokens {
    /// With the key from the store, made at the first start.
    pub(crate) async fn open(store: Store, trust_domain: TrustDomain) -> Result<Self, TokenError> {
        let key = store.keep_secret("token-key", random::<32>()?.to_vec()).await?;
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), trust_domain, store })
    }

    /// Makes a token; returns it and its id.
    pub(crate) async fn create(
        &self,
        wanted: TokenRequest,
        now: SystemTime,
    ) -> Result<(String, String), TokenError> {
        let services: BTreeSet<String> = wanted.services.iter().map(ToString::to_string).collect();
        let holder = Holder::Joins(Joins {
            ns: wanted.namespace.to_string(),
            sa: wanted.service_account.to_string(),
            svc: services.clone(),
            labels: wanted.labels.clone(),
        });
        let token = Token {
            id: hex(&random::<10>()?),
            namespace: wanted.namespace.to_string(),
            service_account: wanted.service_account.to_string(),
            grant: Grant { services, labels: wanted.labels },
            expires: now.checked_add(wanted.ttl).ok_or(TokenError::Lifetime)?,
            uses_left: wanted.uses,
            revoked: false,
            admin: None,
        };
        self.make(JOINING, holder, token).await
    }

    /// Makes an administrator's token; returns it and its id.
    pub(crate) async fn create_admin(
        &self,
        role: Role,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(String, String), TokenError> {
        if ttl > LONGEST_ADMINISTRATION {
            return Err(TokenError::Lifetime);
        }
        let token = Token {
            id: hex(&random::<10>()?),
            namespace: String::new(),
            service_account: String::new(),
            grant: Grant::default(),
            expires: now.checked_add(ttl).ok_or(TokenError::Lifetime)?,
            uses_left: None,
            revoked: false,
            admin: Some(role),
        };
        self.make(ADMINISTRATION, Holder::Administers { role }, token).await
    }

    async fn make(
        &self,
        audience: &str,
        holder: Holder,
        token: Token,
    ) -> Result<(String, String), TokenError> {
        let exp = Timestamp::try_from(token.expires).map_err(|_| TokenError::Lifetime)?.as_second();
        let (jti, iss) = (token.id.clone(), self.trust_domain.to_string());
        let claims = Claims { jti, iss, aud: audience.to_owned(), exp, holder };
        self.store.keep_token(&token).await?;
        let body = serde_json::to_vec(&claims).map_err(|e| StoreError::Record("a token", e))?;
        let header = if audience == JOINING { HEADER } else { ADMINISTRATION_HEADER };
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(body));
        let signature = hmac::sign(&self.key, signed.as_bytes());
        Ok((format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)), token.id))
    }

    /// Checks a token and spends one use of it.
    pub(crate) async fn redeem(&self, text: &str, now: SystemTime) -> Result<Token, TokenError> {
        let claims = self.read(text, JOINING, now)?;
        self.spend(claims.jti).await
    }

    /// Whom an administrator's token speaks of. Whether it was taken back is asked of the store before anything is done.
    pub(crate) fn administrator(&self, text: &str, now: SystemTime) -> Result<Administrator, TokenError> {
        let claims = self.read(text, ADMINISTRATION, now)?;
        match claims.holder {
            Holder::Administers { role } => Ok(Administrator { role, token: Some(claims.jti) }),
            Holder::Joins(_) => Err(TokenError::Malformed("not our claims")),
        }
    }

    /// Checks that an administrator's token was not taken back.
    pub(crate) async fn check(&self, administrator: &Administrator) -> Result<(), TokenError> {
        match &administrator.token {
            Some(id) => self.spend(id.clone()).await.map(drop),
            None => Ok(()),
        }
    }

    async fn spend(&self, id: String) -> Result<Token, TokenError> {
        match self.store.spend_token(&id).await? {
            TokenUse::Spent(token) => Ok(token),
            TokenUse::Unknown => Err(TokenError::Unknown(id)),
            TokenUse::Revoked => Err(TokenError::Revoked(id)),
            TokenUse::UsedUp => Err(TokenError::UsedUp(id)),
        }
    }

    fn read(&self, text: &str, audience: &str, now: SystemTime) -> Result<Claims, TokenError> {
        let claims = self.verify(text)?;
        let expected = self.trust_domain.to_string();
        if claims.iss != expected {
            return Err(TokenError::Elsewhere { found: claims.iss, expected });
        }
        if claims.aud != audience {
            return Err(TokenError::Elsewhere { found: claims.aud, expected: audience.into() });
        }
        let expires =
            Timestamp::from_second(claims.exp).map_err(|_| TokenError::Malformed("no such expiry time"))?;
        if SystemTime::from(expires) <= now {
            return Err(TokenError::Expired(expires));
        }
        Ok(claims)
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
        let header = decode(header)?;
        if ![HEADER, ADMINISTRATION_HEADER].iter().any(|ours| ours.as_bytes() == header) {
            return Err(TokenError::Malformed("not signed with HS256"));
        }
        serde_json::from_slice(&decode(body)?).map_err(|_| TokenError::Malformed("not our claims"))
    }
}

/// Whether a token says that we made it. Whether that is so its signature will say.
pub(crate) fn is_ours(text: &str) -> bool {
    // Other tokens are told apart by their header alone; what is no token at all is a bad one of ours.
    let header = text.split('.').next().unwrap_or_default();
    let is_known = [HEADER, ADMINISTRATION_HEADER].iter().any(|ours| header == URL_SAFE_NO_PAD.encode(ours));
    is_known || text.split('.').count() != 3
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
        let store = Store::open(dir).unwrap();
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
    async fn a_token_to_join_administers_nothing_and_one_to_administer_joins_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path()).await;
        let now = SystemTime::now();
        let (joins, _) = tokens.create(wanted(), now).await.unwrap();
        let minute = Duration::from_mins(1);
        let (views, id) = tokens.create_admin(Role::Viewer, minute, now).await.unwrap();
        // By this, weft run tells them apart.
        assert!(views.starts_with("eyJhbGciOiJIUzI1NiIsInR5cCI6IndlZnQtYWRtaW4rand0In0."));
        let viewer = tokens.administrator(&views, now).unwrap();
        assert_eq!(viewer, Administrator { role: Role::Viewer, token: Some(id.clone()) });
        tokens.check(&viewer).await.unwrap();
        assert!(matches!(tokens.administrator(&joins, now), Err(TokenError::Elsewhere { .. })));
        assert!(matches!(tokens.redeem(&views, now).await, Err(TokenError::Elsewhere { .. })));
        assert!(matches!(tokens.administrator(&views, now + minute), Err(TokenError::Expired(_))));
        tokens.store.revoke_token(&id).await.unwrap();
        assert!(matches!(tokens.check(&viewer).await, Err(TokenError::Revoked(_))));
        let forever = tokens.create_admin(Role::Operator, Duration::from_hours(9999), now).await;
        assert!(matches!(forever, Err(TokenError::Lifetime)));
    }

    /// The signature comes first, so that whatever else it says, what was changed is nobody's.
    #[tokio::test]
    async fn no_change_of_a_token_makes_another_one_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = open(dir.path()).await;
        let now = SystemTime::now();
        let (text, _) = tokens.create(wanted(), now).await.unwrap();
        let mut rng = fastrand::Rng::with_seed(7);
        for _ in 0..2000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..rng.usize(1..4) {
                let at = rng.usize(..bytes.len());
                match rng.u8(..3) {
                    0 => bytes[at] = *b"aZ0-_.=".get(rng.usize(..7)).unwrap(),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, b'A' + rng.u8(..26)),
                }
            }
            let changed = String::from_utf8(bytes).unwrap();
            assert!(changed == text || tokens.read(&changed, JOINING, now).is_err(), "{changed}");
        }
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
