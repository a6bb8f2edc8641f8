//! Sets of keys (RFC 7517): the public keys in them that can prove tokens. Others are passed over, as the RFC asks; what could
//! only be a mistake is an error.

use serde_json::{Map, Value};

use super::json;
use crate::model::{Curve, KeyMaterial, TokenKey};

/// The most keys that a set may have.
const MOST: usize = 100;

/// RSA keys: shorter ones are unsafe, longer ones are slow (RFC 7518 section 3.3).
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// Why a text is no set of keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is no JSON object that everyone reads alike.
    #[error("it is no JSON object, or one that says something twice")]
    NotJson,
    /// There is no list of keys.
    #[error("it has no list \"keys\"")]
    NoKeys,
    /// There are too many.
    #[error("{0} keys are too many")]
    TooMany(usize),
    /// A secret was written where everyone reads it.
    #[error("key {0} is private: put the public one in its place, and that one out of use")]
    Private(usize),
    /// None of them can prove a token.
    #[error("none of its keys can prove a token: RSA from 2048 bits, P-256, P-384, P-521 and Ed25519 can")]
    NoneUsable,
}

/// Reads a set of keys.
pub fn read_key_set(text: &[u8]) -> Result<Vec<TokenKey>, KeySetError> {
    let set = json::object(text).map_err(|_| KeySetError::NotJson)?;
    let Some(Value::Array(members)) = set.get("keys") else { return Err(KeySetError::NoKeys) };
    if members.len() > MOST {
        return Err(KeySetError::TooMany(members.len()));
    }
    let mut keys = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let Value::Object(member) = member else { continue };
        // Of RSA, and of curves (RFC 7518 sections 6.2.2 and 6.3.2). A shared secret proves nothing to those who know it.
        if member.contains_key("d") {
            return Err(KeySetError::Private(index));
        }
        keys.extend(key(member));
    }
    if keys.is_empty() { Err(KeySetError::NoneUsable) } else { Ok(keys) }
}

fn key(member: &Map<String, Value>) -> Option<TokenKey> {
    let text = |name: &str| member.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|use_| use_ != "sig") {
        return None;
    }
    if let Some(Value::Array(operations)) = member.get("key_ops")
        && !operations.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let bytes = |name: &str| json::decode(text(name)?).ok();
    let material = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let (modulus, exponent) = (unsigned(bytes("n")?), unsigned(bytes("e")?));
            let is_odd = exponent.last().is_some_and(|last| last % 2 == 1);
            let usable =
                RSA_BYTES.contains(&modulus.len()) && is_odd && exponent.len() <= 4 && exponent != [1];
            usable.then_some(KeyMaterial::Rsa { modulus, exponent })?
        }
        ("EC", Some("P-256")) => point(Curve::P256, &bytes("x")?, &bytes("y")?, 32)?,
        ("EC", Some("P-384")) => point(Curve::P384, &bytes("x")?, &bytes("y")?, 48)?,
        ("EC", Some("P-521")) => point(Curve::P521, &bytes("x")?, &bytes("y")?, 66)?,
        ("OKP", Some("Ed25519")) => KeyMaterial::Ed25519(bytes("x").filter(|x| x.len() == 32)?),
        _ => return None,
    };
    let algorithm = match text("alg") {
        None => None,
        // A key for what is not known here is of no use.
        Some(name) => Some(name.parse().ok()?),
    };
    Some(TokenKey { id: text("kid").map(str::to_owned), algorithm, material })
}

/// A number without the zeros that some write before it.
fn unsigned(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

fn point(curve: Curve, x: &[u8], y: &[u8], length: usize) -> Option<KeyMaterial> {
    (x.len() == length && y.len() == length).then(|| KeyMaterial::Ec(curve, [&[4], x, y].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINT: &str = "\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU\",\"y\":\"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0\"";

    fn read(members: &str) -> Result<Vec<TokenKey>, KeySetError> {
        read_key_set(format!("{{\"keys\":[{members}]}}").as_bytes())
    }

    #[test]
    fn keys_that_can_prove_tokens_are_read_and_others_passed_over() {
        let keys = read(&format!(
            "{{{POINT},\"kid\":\"1\",\"alg\":\"ES256\",\"use\":\"sig\"}}, {{\"kty\":\"oct\",\"k\":\"AA\"}}, 7"
        ))
        .unwrap();
        assert_eq!(keys.len(), 1);
        assert_eq!(
            (keys[0].id.as_deref(), keys[0].algorithm.unwrap().to_string()),
            (Some("1"), "ES256".to_owned())
        );
        assert!(
            matches!(&keys[0].material, KeyMaterial::Ec(Curve::P256, point) if point.len() == 65 && point[0] == 4)
        );
    }

    #[test]
    fn what_is_no_set_of_keys_says_why() {
        let short = format!("{{\"kty\":\"RSA\",\"n\":\"{}\",\"e\":\"AQAB\"}}", "A".repeat(100));
        for (members, expected) in [
            ("", KeySetError::NoneUsable),
            (&format!("{{{POINT},\"use\":\"enc\"}}"), KeySetError::NoneUsable),
            (&format!("{{{POINT},\"key_ops\":[\"encrypt\"]}}"), KeySetError::NoneUsable),
            (&format!("{{{POINT},\"alg\":\"HS256\"}}"), KeySetError::NoneUsable),
            (&format!("{{{POINT},\"d\":\"AA\"}}"), KeySetError::Private(0)),
            (&short, KeySetError::NoneUsable),
            (&format!("{{{POINT},\"kid\":\"1\",\"kid\":\"2\"}}"), KeySetError::NotJson),
            (&vec!["1"; 101].join(","), KeySetError::TooMany(101)),
        ] {
            assert_eq!(read(members), Err(expected), "{members}");
        }
        assert_eq!(read_key_set(b"{}"), Err(KeySetError::NoKeys));
        assert_eq!(read_key_set(b"<html>"), Err(KeySetError::NotJson));
    }
}
