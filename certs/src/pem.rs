//! Certificates as text (RFC 7468).

use ::pem::{EncodeConfig, LineEnding, Pem};

use crate::CertError;

pub(crate) const CERTIFICATE: &str = "CERTIFICATE";
pub(crate) const PRIVATE_KEY: &str = "PRIVATE KEY";

/// The certificates in a text, in its order, as DER. Other sections and the prose between them are passed over; a text
/// without a certificate is an error.
pub fn certificates(text: &str) -> Result<Vec<Vec<u8>>, CertError> {
    let found: Vec<_> = sections(text)?
        .into_iter()
        .filter(|section| section.tag() == CERTIFICATE)
        .map(Pem::into_contents)
        .collect();
    if found.is_empty() { Err(CertError::PemMissing("certificate")) } else { Ok(found) }
}

/// A text of certificates, in their order.
pub fn from_certificates<D: AsRef<[u8]>>(certificates: &[D]) -> String {
    certificates.iter().map(|der| section(CERTIFICATE, der.as_ref())).collect()
}

/// The one section of a text that is a private key, whatever its kind; others, such as the parameters of a curve, are
/// passed over.
pub(crate) fn private_key(text: &str) -> Result<Pem, CertError> {
    let key = sections(text)?.into_iter().find(|section| section.tag().ends_with(PRIVATE_KEY));
    key.ok_or(CertError::PemMissing("private key"))
}

pub(crate) fn sections(text: &str) -> Result<Vec<Pem>, CertError> {
    ::pem::parse_many(text).map_err(CertError::Pem)
}

pub(crate) fn section(tag: &str, der: &[u8]) -> String {
    ::pem::encode_config(&Pem::new(tag, der), EncodeConfig::new().set_line_ending(LineEnding::LF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_read_back_in_order() {
        let text = from_certificates(&[vec![1u8; 100], vec![2u8; 3]]);
        assert_eq!(certificates(&text).unwrap(), [vec![1u8; 100], vec![2u8; 3]]);
        assert!(text.lines().all(|line| line.len() <= 64) && text.ends_with("-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn prose_and_keys_are_passed_over() {
        let text = format!("subject: a\n{}\n\r\n{}", section(PRIVATE_KEY, b"k"), section(CERTIFICATE, b"c"));
        assert_eq!(certificates(&text).unwrap(), [b"c"]);
    }

    #[test]
    fn a_text_without_certificates_is_refused() {
        assert!(matches!(certificates(""), Err(CertError::PemMissing("certificate"))));
        assert!(certificates(&section(PRIVATE_KEY, b"k")).is_err());
        assert!(matches!(
            certificates("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"),
            Err(CertError::Pem(_))
        ));
    }
}
