//! SPIFFE's rules for a workload's certificate (X509-SVID sections 2, 4 and 5.2), checked once for each handshake.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use weft_core::model::{Serial, SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;

use crate::CertError;

/// What a workload's certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Svid {
    pub(crate) identity: SpiffeId,
    pub(crate) serial: Serial,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
}

/// The identity in a peer's certificate, where that is an X.509-SVID. Whether it is to be believed is the handshake's
/// question: it has been answered for the certificates of an established connection.
pub fn peer_identity(certificate: &[u8]) -> Result<SpiffeId, CertError> {
    Ok(svid(certificate)?.identity)
}

/// Who showed a certificate, and which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who.
    pub identity: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
}

/// The same with the certificate's serial number.
pub fn peer_certificate(certificate: &[u8]) -> Result<PeerCertificate, CertError> {
    let Svid { identity, serial, .. } = svid(certificate)?;
    Ok(PeerCertificate { identity, serial })
}

fn serial(certificate: &X509Certificate<'_>) -> Result<Serial, CertError> {
    // RFC 5280 section 4.1.2.2: positive, and at most twenty bytes.
    hex(certificate.raw_serial()).parse().map_err(|_| CertError::NotSvid("its serial number is not valid"))
}

/// The serial number of a certificate, in lower-case hexadecimal digits.
pub fn serial_of(certificate: &[u8]) -> Result<String, CertError> {
    Ok(hex(parse(certificate)?.raw_serial()))
}

/// Until when a certificate is good.
pub fn end_of(certificate: &[u8]) -> Result<SystemTime, CertError> {
    time_of(parse(certificate)?.validity().not_after)
}

/// The trust domain that an anchor speaks for: a signing certificate is itself an SVID, without a path (X509-SVID section 3.2).
pub fn trust_domain_of(anchor: &[u8]) -> Result<TrustDomain, CertError> {
    let certificate = parse(anchor)?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let uris = names.iter().flat_map(|names| &names.value.general_names);
    uris.filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix("spiffe://"),
        _ => None,
    })
    .find_map(|domain| domain.parse().ok())
    .ok_or(CertError::Authority("root names no trust domain"))
}

pub(crate) fn svid(certificate: &[u8]) -> Result<Svid, CertError> {
    let certificate = parse(certificate)?;
    let identity = identity_of(&certificate)?;
    check_constraints(&certificate)?;
    check_usages(&certificate)?;
    Ok(Svid {
        identity,
        serial: serial(&certificate)?,
        not_before: time_of(certificate.validity().not_before)?,
        not_after: time_of(certificate.validity().not_after)?,
    })
}

pub(crate) fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, CertError> {
    match X509Certificate::from_der(certificate) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) | Err(_) => Err(CertError::Malformed("certificate")),
    }
}

/// What people call a certificate: its common name, else all of its subject.
pub(crate) fn name_of(certificate: &X509Certificate<'_>) -> String {
    let common = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    common.map_or_else(|| certificate.subject().to_string(), str::to_owned)
}

pub(crate) fn time_of(time: ASN1Time) -> Result<SystemTime, CertError> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| CertError::Time)?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// RFC 5280 section 6.1.4 (n), which webpki leaves to its callers; SPIFFE wants the extension to be there.
pub(crate) fn may_sign_certificates(certificate: &[u8]) -> Result<(), CertError> {
    match parse(certificate)?.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        Ok(_) | Err(_) => Err(CertError::NotSvid("its issuer's key may not sign certificates")),
    }
}

/// Exactly one URI among the names, however many DNS names and addresses stand beside it.
fn identity_of(certificate: &X509Certificate<'_>) -> Result<SpiffeId, CertError> {
    let names =
        certificate.subject_alternative_name().map_err(|_| CertError::NotSvid("its names are malformed"))?;
    let Some(names) = names else { return Err(CertError::UriNames(0)) };
    if !names.critical && certificate.subject().iter().next().is_none() {
        return Err(CertError::NotSvid("its subject is empty but its names are not critical"));
    }
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.count()) {
        (Some(uri), 0) => uri.parse().map_err(CertError::Identity),
        (first, others) => Err(CertError::UriNames(usize::from(first.is_some()) + others)),
    }
}

fn check_constraints(certificate: &X509Certificate<'_>) -> Result<(), CertError> {
    match certificate.basic_constraints() {
        Ok(Some(constraints)) if constraints.value.ca => Err(CertError::NotSvid("it is an authority's")),
        Ok(_) => Ok(()),
        Err(_) => Err(CertError::NotSvid("its basic constraints are malformed")),
    }
}

fn check_usages(certificate: &X509Certificate<'_>) -> Result<(), CertError> {
    let usage = certificate.key_usage().map_err(|_| CertError::NotSvid("its key usage is malformed"))?;
    let Some(usage) = usage else { return Err(CertError::NotSvid("it has no key usage")) };
    if !usage.critical {
        return Err(CertError::NotSvid("its key usage is not critical"));
    }
    if !usage.value.digital_signature() {
        return Err(CertError::NotSvid("its key may not sign"));
    }
    if usage.value.key_cert_sign() || usage.value.crl_sign() {
        return Err(CertError::NotSvid("its key may sign certificates or revocation lists"));
    }
    match certificate.extended_key_usage() {
        Ok(None) => Ok(()),
        Ok(Some(purposes)) if purposes.value.server_auth && purposes.value.client_auth => Ok(()),
        Ok(Some(_)) => Err(CertError::NotSvid("its purposes are not both server and client authentication")),
        Err(_) => Err(CertError::NotSvid("its purposes are malformed")),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    // DER puts a zero before a positive integer whose first bit is set.
    let digits = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    self::digits(digits)
}

pub(crate) fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
