//! Certificate requests (PKCS#10, RFC 2986): what a sidecar sends, and what an authority takes from it.

use rcgen::{CertificateParams, DistinguishedName, PublicKeyData as _, SubjectPublicKeyInfo};
use weft_core::model::SpiffeId;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey;
use x509_parser::x509;

use crate::{CertError, KeyPair};

/// A request for a certificate of `key`, as DER. It names nobody: who we are is what our token or our present
/// certificate proves, and the authority writes it.
pub fn request(key: &KeyPair) -> Result<Vec<u8>, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let request =
        params.serialize_request(key.inner()).map_err(|e| CertError::Write("certificate request", e))?;
    Ok(request.der().to_vec())
}

/// The public key of a request that may be answered with a certificate for `identity`.
pub(crate) fn requested_key(der: &[u8], identity: &SpiffeId) -> Result<SubjectPublicKeyInfo, CertError> {
    let Ok(([], request)) = X509CertificationRequest::from_der(der) else {
        return Err(CertError::Malformed("certificate request"));
    };
    let public = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(public.raw)
        .ok()
        .filter(|key| key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256)
        .ok_or_else(|| CertError::RequestKey(kind_of(public)))?;
    request.verify_signature().map_err(|_| CertError::RequestSignature)?;
    check_extensions(&request, identity)?;
    Ok(key)
}

/// Nothing of these is copied into the certificate. A request for something else is refused all the same: its sender
/// would not get what it relies on.
fn check_extensions(request: &X509CertificationRequest<'_>, identity: &SpiffeId) -> Result<(), CertError> {
    let refuse = |asked: String| CertError::RequestAsks { asked, allowed: identity.clone() };
    for attribute in request.certification_request_info.iter_attributes() {
        let ParsedCriAttribute::ExtensionRequest(extensions) = attribute.parsed_attribute() else { continue };
        for extension in &extensions.extensions {
            let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
                return Err(refuse(format!("the extension {}", extension.oid)));
            };
            match names.general_names.as_slice() {
                [GeneralName::URI(uri)] if *uri == identity.as_str() => {}
                names => {
                    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
                    return Err(refuse(format!("{names:?}")));
                }
            }
        }
    }
    Ok(())
}

fn kind_of(key: &x509::SubjectPublicKeyInfo<'_>) -> String {
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) => format!("an RSA key of {} bits", rsa.key_size()),
        Ok(PublicKey::EC(point)) => format!("an elliptic curve key of {} bits", point.key_size()),
        Ok(PublicKey::DSA(_)) => "a DSA key".into(),
        Ok(_) | Err(_) => format!("a key of the algorithm {}", key.algorithm.algorithm),
    }
}
