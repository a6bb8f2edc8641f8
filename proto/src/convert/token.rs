//! Whose tokens are taken, and which keys prove them.

use std::time::Duration;

use weft_core::model::{self, Curve, Forwarding, KeyMaterial, Presence, TokenPlace};

use super::access::ports;
use super::{ConvertError, qualified};
use crate::v1;
use v1::token_key::Material;

impl TryFrom<&v1::TokenPolicy> for model::TokenPolicy {
    type Error = ConvertError;

    fn try_from(wire: &v1::TokenPolicy) -> Result<Self, ConvertError> {
        Ok(Self {
            name: qualified("token.name", &wire.name)?,
            ports: ports("token.ports", &wire.ports)?,
            presence: if wire.optional { Presence::Optional } else { Presence::Required },
            providers: wire.providers.iter().map(provider).collect::<Result<_, _>>()?,
        })
    }
}

fn provider(wire: &v1::TokenProvider) -> Result<model::TokenProvider, ConvertError> {
    let place = |place: &v1::TokenPlace| match &place.place {
        Some(v1::token_place::Place::Header(header)) => {
            Ok(TokenPlace::Header { name: header.name.clone(), prefix: header.value.clone() })
        }
        Some(v1::token_place::Place::Parameter(name)) => Ok(TokenPlace::Parameter(name.clone())),
        None => Err(ConvertError::Missing("token.place")),
    };
    let claim_header = |said: &v1::HeaderValue| {
        let claim =
            said.value.parse().map_err(|_| ConvertError::Pattern("token.claim", said.value.clone()))?;
        Ok((claim, said.name.clone()))
    };
    Ok(model::TokenProvider {
        issuer: wire.issuer.clone(),
        audiences: wire.audiences.clone(),
        keys: wire.keys.iter().map(key).collect::<Result<_, _>>()?,
        places: wire.places.iter().map(place).collect::<Result<_, _>>()?,
        forwarding: if wire.strip { Forwarding::Strip } else { Forwarding::Keep },
        claim_headers: wire.claim_headers.iter().map(claim_header).collect::<Result<_, ConvertError>>()?,
        skew: Duration::from_millis(wire.skew_ms),
    })
}

fn key(wire: &v1::TokenKey) -> Result<model::TokenKey, ConvertError> {
    let material = match wire.material.as_ref().ok_or(ConvertError::Missing("token.key"))? {
        Material::Rsa(rsa) => {
            KeyMaterial::Rsa { modulus: rsa.modulus.clone(), exponent: rsa.exponent.clone() }
        }
        Material::P256(point) => KeyMaterial::Ec(Curve::P256, point.clone()),
        Material::P384(point) => KeyMaterial::Ec(Curve::P384, point.clone()),
        Material::P521(point) => KeyMaterial::Ec(Curve::P521, point.clone()),
        Material::Ed25519(point) => KeyMaterial::Ed25519(point.clone()),
    };
    let algorithm = match wire.algorithm.as_str() {
        "" => None,
        name => Some(name.parse().map_err(|_| ConvertError::Pattern("token.algorithm", name.to_owned()))?),
    };
    Ok(model::TokenKey { id: wire.id.clone(), algorithm, material })
}

impl From<&model::TokenPolicy> for v1::TokenPolicy {
    fn from(policy: &model::TokenPolicy) -> Self {
        Self {
            name: policy.name.to_string(),
            ports: policy.ports.iter().map(|port| u32::from(*port)).collect(),
            optional: policy.presence == Presence::Optional,
            providers: policy.providers.iter().map(Into::into).collect(),
        }
    }
}

impl From<&model::TokenProvider> for v1::TokenProvider {
    fn from(provider: &model::TokenProvider) -> Self {
        let place = |place: &TokenPlace| match place {
            TokenPlace::Header { name, prefix } => {
                v1::token_place::Place::Header(v1::HeaderValue { name: name.clone(), value: prefix.clone() })
            }
            TokenPlace::Parameter(name) => v1::token_place::Place::Parameter(name.clone()),
        };
        let claim_header = |(claim, name): &(model::ClaimName, String)| v1::HeaderValue {
            name: name.clone(),
            value: claim.to_string(),
        };
        Self {
            issuer: provider.issuer.clone(),
            audiences: provider.audiences.clone(),
            keys: provider.keys.iter().map(Into::into).collect(),
            places: provider.places.iter().map(|it| v1::TokenPlace { place: Some(place(it)) }).collect(),
            strip: provider.forwarding == Forwarding::Strip,
            claim_headers: provider.claim_headers.iter().map(claim_header).collect(),
            skew_ms: provider.skew.as_millis().try_into().unwrap_or(u64::MAX),
        }
    }
}

impl From<&model::TokenKey> for v1::TokenKey {
    fn from(key: &model::TokenKey) -> Self {
        let material = match &key.material {
            KeyMaterial::Rsa { modulus, exponent } => {
                Material::Rsa(v1::RsaKey { modulus: modulus.clone(), exponent: exponent.clone() })
            }
            KeyMaterial::Ec(Curve::P256, point) => Material::P256(point.clone()),
            KeyMaterial::Ec(Curve::P384, point) => Material::P384(point.clone()),
            KeyMaterial::Ec(Curve::P521, point) => Material::P521(point.clone()),
            KeyMaterial::Ed25519(point) => Material::Ed25519(point.clone()),
        };
        Self {
            id: key.id.clone(),
            algorithm: key.algorithm.map(|it| it.to_string()).unwrap_or_default(),
            material: Some(material),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_core::model::{TokenKey, TokenPolicy, TokenProvider};

    use super::*;

    fn policy() -> TokenPolicy {
        let key = |id: Option<&str>, algorithm: Option<&str>, material| TokenKey {
            id: id.map(str::to_owned),
            algorithm: algorithm.map(|name| name.parse().unwrap()),
            material,
        };
        let provider = TokenProvider {
            issuer: "https://id.example.com".to_owned(),
            audiences: vec!["web".to_owned()],
            keys: vec![
                key(Some("1"), None, KeyMaterial::Rsa { modulus: vec![3; 256], exponent: vec![1, 0, 1] }),
                key(Some(""), Some("ES256"), KeyMaterial::Ec(Curve::P256, vec![4; 65])),
                key(None, Some("ES384"), KeyMaterial::Ec(Curve::P384, vec![4; 97])),
                key(None, None, KeyMaterial::Ec(Curve::P521, vec![4; 133])),
                key(None, Some("EdDSA"), KeyMaterial::Ed25519(vec![5; 32])),
            ],
            places: vec![
                TokenPlace::Header { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() },
                TokenPlace::Parameter("access_token".to_owned()),
            ],
            forwarding: Forwarding::Strip,
            claim_headers: vec![("realm.sub".parse().unwrap(), "x-user".to_owned())],
            skew: Duration::from_secs(5),
        };
        TokenPolicy {
            name: "default/users".parse().unwrap(),
            ports: vec![8080],
            presence: Presence::Optional,
            providers: vec![provider],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        assert_eq!(TokenPolicy::try_from(&v1::TokenPolicy::from(&policy())).unwrap(), policy());
    }

    #[test]
    fn what_is_not_understood_is_refused_whole() {
        let spoil: [fn(&mut v1::TokenPolicy); 4] = [
            |wire| wire.ports.push(0),
            |wire| wire.providers[0].places.push(v1::TokenPlace { place: None }),
            |wire| wire.providers[0].keys[0].material = None,
            |wire| wire.providers[0].keys[0].algorithm = "HS256".to_owned(),
        ];
        for spoil in spoil {
            let mut wire = v1::TokenPolicy::from(&policy());
            spoil(&mut wire);
            assert!(TokenPolicy::try_from(&wire).is_err(), "{wire:?}");
        }
    }
}
