//! Why a token proves nothing.

use std::fmt;

/// Why a token is refused; each for a reason of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Flaw {
    /// There are several tokens, and who reads them may not agree on which counts.
    Several,
    /// It is longer than what is looked at.
    TooLong,
    /// It is not of three parts.
    NotCompact,
    /// It is encrypted.
    Encrypted,
    /// A part is not base64url as it has to be.
    Encoding,
    /// A part is no JSON object, or none that everyone reads alike.
    NotJson,
    /// A part says something twice.
    Duplicate,
    /// It does not say how it is signed.
    NoAlgorithm,
    /// It says that it is not signed.
    Unsigned,
    /// It is signed by a shared secret.
    SharedSecret,
    /// It is signed in a way that is not known here.
    UnknownAlgorithm,
    /// It wants something of its reader that is not known here.
    Critical,
    /// There is a token in it.
    Nested,
    /// It is for another purpose.
    WrongType,
    /// There are no keys yet to prove it by.
    NoKeys,
    /// It names a key that there is not.
    UnknownKey,
    /// The key that it names is for another algorithm.
    WrongKey,
    /// The signature is not of it by that key.
    BadSignature,
    /// No one whose tokens are taken issued it.
    WrongIssuer,
    /// It is not meant for us.
    WrongAudience,
    /// It would be good for ever.
    NoExpiry,
    /// It is over.
    Expired,
    /// It is not good yet.
    NotYet,
    /// It was issued in the future.
    IssuedLater,
    /// A claim is of another type than it has to be.
    ClaimType(&'static str),
}

impl Flaw {
    /// The words for it: short, as metrics label it, and long, as callers are told.
    const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Several => ("several-tokens", "there is more than one token"),
            Self::TooLong => ("too-long", "the token is too long"),
            Self::NotCompact => ("not-compact", "a token has three parts"),
            Self::Encrypted => ("encrypted", "encrypted tokens are not taken"),
            Self::Encoding => ("bad-encoding", "a part of the token is not base64url"),
            Self::NotJson => ("not-json", "a part of the token is no JSON object"),
            Self::Duplicate => ("duplicate-name", "a part of the token says something twice"),
            Self::NoAlgorithm => ("no-algorithm", "the token does not say how it is signed"),
            Self::Unsigned => ("unsigned", "the token is not signed"),
            Self::SharedSecret => ("shared-secret", "tokens signed by a shared secret are not taken"),
            Self::UnknownAlgorithm => ("unknown-algorithm", "the token's algorithm is not known"),
            Self::Critical => ("critical-header", "the token's header asks for an extension"),
            Self::Nested => ("nested", "nested tokens are not taken"),
            Self::WrongType => ("wrong-type", "the token is for another purpose"),
            Self::NoKeys => ("no-keys", "the issuer's keys are not known yet"),
            Self::UnknownKey => ("unknown-key", "the token's key is not known"),
            Self::WrongKey => ("wrong-key", "the token's key is for another algorithm"),
            Self::BadSignature => ("bad-signature", "the token's signature is wrong"),
            Self::WrongIssuer => ("wrong-issuer", "the token's issuer is not taken"),
            Self::WrongAudience => ("wrong-audience", "the token is meant for someone else"),
            Self::NoExpiry => ("no-expiry", "the token has no expiry"),
            Self::Expired => ("expired", "the token has expired"),
            Self::NotYet => ("not-yet-valid", "the token is not valid yet"),
            Self::IssuedLater => ("issued-later", "the token was issued in the future"),
            Self::ClaimType(_) => ("claim-type", "a claim of the token is of the wrong type"),
        }
    }

    /// As metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        self.words().0
    }
}

/// As callers are told.
impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words().1)
    }
}
