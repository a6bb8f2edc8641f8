//! The private key of a workload: ECDSA P-256, made where it is used and never sent.

use std::fmt;

use rcgen::PKCS_ECDSA_P256_SHA256;
use rustls::pki_types::PrivatePkcs8KeyDer;

use crate::CertError;

/// An ECDSA P-256 key.
pub struct KeyPair(rcgen::KeyPair);

impl KeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, CertError> {
        rcgen::KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map(Self).map_err(CertError::Key)
    }

    /// The key of a PKCS#8 PEM text.
    pub fn from_pem(text: &str) -> Result<Self, CertError> {
        rcgen::KeyPair::from_pkcs8_pem_and_sign_algo(text, &PKCS_ECDSA_P256_SHA256)
            .map(Self)
            .map_err(CertError::Key)
    }

    /// The key as PKCS#8 PEM, to be kept where only its owner reads it.
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    pub(crate) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        self.0.serialize_der().into()
    }

    pub(crate) fn inner(&self) -> &rcgen::KeyPair {
        &self.0
    }

    pub(crate) fn into_inner(self) -> rcgen::KeyPair {
        self.0
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_shows_no_secret() {
        let key = KeyPair::generate().unwrap();
        let again = KeyPair::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.inner().public_key_raw(), again.inner().public_key_raw());
        assert_eq!(format!("{key:?}"), "KeyPair(..)");
    }

    #[test]
    fn other_kinds_of_key_are_refused() {
        for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
            let pem = rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem();
            assert!(matches!(KeyPair::from_pem(&pem), Err(CertError::Key(_))));
        }
        assert!(KeyPair::from_pem("").is_err());
        assert!(KeyPair::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n").is_err());
    }
}
