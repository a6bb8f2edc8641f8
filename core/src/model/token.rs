//! Tokens that requests carry, as `JwtAuthentication` has them: whose are taken, and which keys prove them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{QualifiedName, is_token};

/// A policy, as the sidecar of one workload is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenPolicy {
    /// Its name, which answers and metrics give as the reason.
    pub name: QualifiedName,
    /// The app's ports that it is about; none: every port.
    pub ports: Vec<u16>,
    /// Whether a request may come without a token.
    pub presence: Presence,
    /// Whose tokens are taken.
    pub providers: Vec<TokenProvider>,
}

/// Whether a request may come without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Presence {
    /// It may not.
    #[default]
    Required,
    /// It may; one that it has must be good all the same.
    Optional,
}

/// Someone whose tokens are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenProvider {
    /// What tokens name as their issuer, letter by letter.
    pub issuer: String,
    /// Whom tokens must be meant for: one of these.
    pub audiences: Vec<String>,
    /// What proves tokens; none: none can be proved.
    pub keys: Vec<TokenKey>,
    /// Where requests carry tokens.
    pub places: Vec<TokenPlace>,
    /// Whether the app sees them.
    pub forwarding: Forwarding,
    /// Claims that the app is told in headers of these names, in lower case.
    pub claim_headers: Vec<(ClaimName, String)>,
    /// By how much the issuer's clock may differ from ours.
    pub skew: Duration,
}

/// Where a request carries a token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenPlace {
    /// In a header of this name, in lower case, behind a prefix that is compared without its case.
    Header {
        /// The name.
        name: String,
        /// What stands before the token.
        prefix: String,
    },
    /// In a parameter of the query, of this name.
    Parameter(String),
}

/// Whether the app sees the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Forwarding {
    /// As it was sent.
    #[default]
    Keep,
    /// It is taken out.
    Strip,
}

/// A key that proves tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenKey {
    /// Its name, as tokens give it.
    pub id: Option<String>,
    /// The one algorithm that it is for, where it says so.
    pub algorithm: Option<Algorithm>,
    /// The key itself.
    pub material: KeyMaterial,
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyMaterial {
    /// RSA: modulus and exponent, without leading zeros.
    Rsa {
        /// The modulus.
        modulus: Vec<u8>,
        /// The exponent.
        exponent: Vec<u8>,
    },
    /// A point on a curve, uncompressed (SEC 1 section 2.3.3).
    Ec(Curve, Vec<u8>),
    /// Ed25519.
    Ed25519(Vec<u8>),
}

/// A curve of ECDSA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// P-256.
    P256,
    /// P-384.
    P384,
    /// P-521.
    P521,
}

/// How a token is signed (RFC 7518 section 3.1, RFC 8037 section 3.1). There is no algorithm of a shared secret among them, and
/// no "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// With SHA-384.
    Rs384,
    /// With SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// With SHA-384.
    Ps384,
    /// With SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// On P-384 with SHA-384.
    Es384,
    /// On P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

/// A claim by its name. What has dots in it is first looked for as it stands, then as members within members.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimName(String);

/// A text that names no algorithm or claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no {1}")]
pub struct TokenTextError(String, &'static str);

/// The longest name of a claim.
const LONGEST_CLAIM: usize = 256;

impl TokenPolicy {
    /// Those whose tokens are carried at this place.
    pub fn at<'p>(&'p self, place: &'p TokenPlace) -> impl Iterator<Item = &'p TokenProvider> {
        self.providers.iter().filter(move |provider| provider.places.contains(place))
    }
}

impl Algorithm {
    const ALL: [(&'static str, Self); 11] = [
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("ES512", Self::Es512),
        ("EdDSA", Self::EdDsa),
        // RFC 9864 section 2.2.
        ("Ed25519", Self::EdDsa),
    ];

    /// Whether keys of this kind are for it.
    pub fn takes(self, key: &KeyMaterial) -> bool {
        match key {
            KeyMaterial::Rsa { .. } => {
                matches!(
                    self,
                    Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512
                )
            }
            KeyMaterial::Ec(Curve::P256, _) => self == Self::Es256,
            KeyMaterial::Ec(Curve::P384, _) => self == Self::Es384,
            KeyMaterial::Ec(Curve::P521, _) => self == Self::Es512,
            KeyMaterial::Ed25519(_) => self == Self::EdDsa,
        }
    }
}

impl FromStr for Algorithm {
    type Err = TokenTextError;

    fn from_str(text: &str) -> Result<Self, TokenTextError> {
        let found = Self::ALL.iter().find(|(name, _)| *name == text);
        found.map(|(_, algorithm)| *algorithm).ok_or_else(|| TokenTextError(text.to_owned(), "algorithm"))
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(_, algorithm)| algorithm == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl ClaimName {
    /// How the match of a header is named that is one of a claim. No request from outside has such a header.
    const IN_ROUTES: &str = "weft-claim.";

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim that the name of a route's header match stands for; none: it is a header's.
    pub fn of_match(name: &str) -> Option<Result<Self, TokenTextError>> {
        let (begin, spelt) = name.split_at_checked(Self::IN_ROUTES.len())?;
        let error = || TokenTextError(name.to_owned(), "claim");
        begin
            .eq_ignore_ascii_case(Self::IN_ROUTES)
            .then(|| unescape(spelt).ok_or_else(error)?.parse().map_err(|_| error()))
    }

    /// As a route's header match names it: what stands in no header's name as `%XX`.
    pub fn as_match(&self) -> String {
        let mut text = Self::IN_ROUTES.to_owned();
        for byte in self.0.bytes() {
            match char::from(byte) {
                plain if byte != b'%' && is_token(plain.encode_utf8(&mut [0; 2])) => text.push(plain),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        text
    }
}

/// What stands for itself, and for what no header's name may have where it is `%XX`.
fn unescape(spelt: &str) -> Option<String> {
    let mut bytes = spelt.bytes();
    let mut plain = Vec::with_capacity(spelt.len());
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => digit(bytes.next())? << 4 | digit(bytes.next())?,
            _ if is_token(char::from(byte).encode_utf8(&mut [0; 2])) => byte,
            _ => return None,
        });
    }
    String::from_utf8(plain).ok()
}

impl FromStr for ClaimName {
    type Err = TokenTextError;

    fn from_str(text: &str) -> Result<Self, TokenTextError> {
        let has_room = (1..=LONGEST_CLAIM).contains(&text.len());
        if has_room && !text.chars().any(char::is_control) {
            Ok(Self(text.to_owned()))
        } else {
            Err(TokenTextError(text.to_owned(), "claim"))
        }
    }
}

impl fmt::Display for ClaimName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where keys are fetched from. Whoever answers must be proved by these authorities (PEM), or where there are none, by the
/// public ones.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeySource {
    /// A set of keys at this address.
    At {
        /// The address.
        uri: String,
        /// Who vouches for it.
        authorities: String,
    },
    /// Where the issuer says (OpenID Connect Discovery 1.0).
    Discovered {
        /// The issuer.
        issuer: String,
        /// Who vouches for it.
        authorities: String,
    },
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At { uri, .. } => f.write_str(uri),
            Self::Discovered { issuer, .. } => write!(f, "the discovery of {issuer}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_name_claims_as_headers_that_there_are_not() {
        let claim = |name: &str| ClaimName::of_match(name).map(|claim| claim.map(|claim| claim.0).ok());
        for (name, expected) in [
            ("weft-claim.tier", Some(Some("tier"))),
            ("Weft-Claim.tenantId", Some(Some("tenantId"))),
            ("weft-claim.realm_access.roles", Some(Some("realm_access.roles"))),
            ("weft-claim.https%3A%2F%2Fid.example%2froles", Some(Some("https://id.example/roles"))),
            ("weft-claim.50%25", Some(Some("50%"))),
            ("weft-claim.%C3%A9", Some(Some("\u{e9}"))),
            ("weft-claim.", Some(None)),
            ("weft-claim.a%2", Some(None)),
            ("weft-claim.a%zz", Some(None)),
            ("weft-claim.%FF", Some(None)),
            ("weft-claim.a%0A", Some(None)),
            ("weft-claim.a b", Some(None)),
            ("weft-claims.a", None),
            ("weft-claim", None),
            ("x-claim.a", None),
        ] {
            assert_eq!(claim(name), expected.map(|name| name.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn every_claim_has_a_name_that_a_header_may_have() {
        for name in ["tier", "a.b", "https://id/r?x=1", "50%", "%41", "\u{e9} \u{1f600}", "a,b"] {
            let claim: ClaimName = name.parse().unwrap();
            let spelt = claim.as_match();
            assert!(is_token(&spelt), "{spelt}");
            assert_eq!(ClaimName::of_match(&spelt), Some(Ok(claim)), "{spelt}");
        }
    }
}
