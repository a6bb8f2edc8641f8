//! Signatures of tokens, by the library that TLS uses. Which key is for which token, [`weft_core::jwt`] decides.

use aws_lc_rs::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey};
use weft_core::model::{Algorithm, KeyMaterial, TokenKey};

/// Whether a signature is of a message, by a key.
pub fn is_signed(key: &TokenKey, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
    let rsa = |how: &'static RsaParameters| match &key.material {
        KeyMaterial::Rsa { modulus, exponent } => {
            RsaPublicKeyComponents { n: modulus, e: exponent }.verify(how, message, signature).is_ok()
        }
        KeyMaterial::Ec(..) | KeyMaterial::Ed25519(_) => false,
    };
    let point = |how: &'static dyn signature::VerificationAlgorithm| match &key.material {
        KeyMaterial::Ec(_, point) | KeyMaterial::Ed25519(point) => {
            UnparsedPublicKey::new(how, point).verify(message, signature).is_ok()
        }
        KeyMaterial::Rsa { .. } => false,
    };
    match algorithm {
        Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        Algorithm::Ps256 => rsa(&signature::RSA_PSS_2048_8192_SHA256),
        Algorithm::Ps384 => rsa(&signature::RSA_PSS_2048_8192_SHA384),
        Algorithm::Ps512 => rsa(&signature::RSA_PSS_2048_8192_SHA512),
        Algorithm::Es256 => point(&signature::ECDSA_P256_SHA256_FIXED),
        Algorithm::Es384 => point(&signature::ECDSA_P384_SHA384_FIXED),
        Algorithm::Es512 => point(&signature::ECDSA_P521_SHA512_FIXED),
        Algorithm::EdDsa => point(&signature::ED25519),
    }
}
