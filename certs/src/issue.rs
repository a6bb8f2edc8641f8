//! The certificate authority: a root that is trusted, an issuing certificate that signs, and the SVIDs it makes.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::pem::Pem;
use aws_lc_rs::digest::{SHA256, digest};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PublicKeyData as _, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::DnsName;
use weft_core::model::{SpiffeId, TrustDomain};

use crate::{CertError, KeyPair, csr, pem, spiffe};

const ROOT_LIFE: Duration = Duration::from_hours(10 * 365 * 24);
const ISSUING_LIFE: Duration = Duration::from_hours(365 * 24);
/// How far a new certificate reaches into the past, so that a peer whose clock is behind takes it too.
const BACK_DATING: Duration = Duration::from_secs(30);
/// The last second that X.509 can write (RFC 5280 section 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

/// The issuing certificate is renewed when it has less than this left.
const ISSUING_RENEWAL: Duration = Duration::from_hours(60 * 24);

/// A trust domain's root and issuing certificates, with their keys. Cheap to clone.
#[derive(Clone)]
pub struct Authority {
    pub(crate) domain: TrustDomain,
    pub(crate) above: Above,
    pub(crate) issuing: Arc<Ca>,
}

/// What the issuing certificate leads to.
#[derive(Clone)]
pub(crate) enum Above {
    /// A root whose key we hold.
    Own(Arc<Ca>),
    /// Roots of others, that which is led to first, and the certificates on the way there.
    Others { between: Vec<Vec<u8>>, roots: Vec<Vec<u8>> },
}

/// What a certificate is to say, beside the key of the request.
#[derive(Debug, Clone)]
pub struct IssueParams {
    /// Whose it is.
    pub identity: SpiffeId,
    /// DNS names to stand beside the identity.
    pub dns: Vec<String>,
    /// Addresses to stand beside the identity.
    pub ips: Vec<IpAddr>,
    /// How long it lives from `now`, at least a second. It never outlives the issuing certificate.
    pub ttl: Duration,
    /// The time.
    pub now: SystemTime,
}

/// A new certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, then the one that signed it, as DER; without the root, which peers hold already.
    pub chain: Vec<Vec<u8>>,
    /// Its serial number, in lower-case hexadecimal digits.
    pub serial: String,
    /// The name of the certificate that signed it.
    pub issuer: String,
    /// The fingerprint of the root that it leads to.
    pub root: String,
    /// When its life begins: a little before it was made.
    pub not_before: SystemTime,
    /// When its life ends, in whole seconds.
    pub not_after: SystemTime,
}

pub(crate) struct Ca {
    pub(crate) der: Vec<u8>,
    name: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    /// A new authority for a trust domain: a root for ten years, an issuing certificate for one.
    pub fn create(domain: &TrustDomain, now: SystemTime) -> Result<Self, CertError> {
        let key = KeyPair::generate()?.into_inner();
        let params = ca_params(domain, "root", BasicConstraints::Unconstrained, now, ROOT_LIFE)?;
        let root = params.self_signed(&key).map_err(|e| CertError::Write("root certificate", e))?;
        let root = Ca::new(root.der().to_vec(), key)?;
        let issuing = root.issuing(domain, now)?;
        let above = Above::Own(Arc::new(root));
        Ok(Self { domain: domain.clone(), above, issuing: Arc::new(issuing) })
    }

    /// The same root with a new issuing certificate and key. Certificates of the former one stay valid.
    pub fn renew_issuing(self, now: SystemTime) -> Result<Self, CertError> {
        let issuing = Arc::new(self.own_root()?.issuing(&self.domain, now)?);
        Ok(Self { issuing, ..self })
    }

    /// Whether the issuing certificate is to be renewed here: it ends soon, has ended, or was made while a clock was ahead.
    pub fn renews_issuing(&self, now: SystemTime) -> bool {
        !self.is_given() && (now < self.issuing.not_before || self.issuing.not_after < now + ISSUING_RENEWAL)
    }

    /// The authority that [`Authority::to_pem`] wrote, checked to belong together.
    pub fn from_pem(text: &str) -> Result<Self, CertError> {
        Self::from_sections(&mut pem::sections(text)?.into_iter())
    }

    /// The same, from the next four sections.
    pub(crate) fn from_sections(sections: &mut impl Iterator<Item = Pem>) -> Result<Self, CertError> {
        let mut next = |tag, missing| {
            let section = sections.next().filter(|section| section.tag() == tag);
            section.ok_or(CertError::PemMissing(missing))
        };
        let mut ca = |certificate, key| {
            let certificate = next(pem::CERTIFICATE, certificate)?.into_contents();
            let key = next(pem::PRIVATE_KEY, key)?;
            Ca::new(certificate, KeyPair::from_pem(&key.to_string())?.into_inner())
        };
        let root = ca("root certificate", "root key")?;
        let issuing = ca("issuing certificate", "issuing key")?;
        let domain = spiffe::trust_domain_of(&root.der)?;
        let parsed = spiffe::parse(&root.der)?;
        let signed = spiffe::parse(&issuing.der)?.verify_signature(Some(parsed.public_key()));
        signed.map_err(|_| CertError::Authority("issuing certificate is not signed by its root"))?;
        Ok(Self { domain, above: Above::Own(Arc::new(root)), issuing: Arc::new(issuing) })
    }

    /// A certificate for another authority's root, by this one: whoever still trusts this one alone takes what the other
    /// signs.
    pub(crate) fn cross_sign(&self, other: &Self, now: SystemTime) -> Result<Vec<u8>, CertError> {
        let own = self.own_root()?;
        let life = own.not_after.duration_since(now).map_err(|_| CertError::IssuerExpired)?;
        let mut params = ca_params(&self.domain, "root", BasicConstraints::Unconstrained, now, life)?;
        let crossed = other.own_root()?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, crossed.name.as_str());
        let root = spiffe::parse(&crossed.der)?;
        let key = SubjectPublicKeyInfo::from_der(root.public_key().raw);
        let key = key.map_err(|_| CertError::Malformed("root certificate"))?;
        let crossed = params.signed_by(&key, &own.issuer);
        Ok(crossed.map_err(|e| CertError::Write("root certificate", e))?.der().to_vec())
    }

    /// Certificates and keys as PEM, to be kept where only the control plane reads it.
    /// Of what others keep, the roots alone.
    pub fn to_pem(&self) -> String {
        match &self.above {
            Above::Own(root) => [root, &self.issuing]
                .map(|ca| pem::section(pem::CERTIFICATE, &ca.der) + &ca.issuer.key().serialize_pem())
                .concat(),
            Above::Others { roots, .. } => pem::from_certificates(roots),
        }
    }

    /// The trust domain that it speaks for.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Whether others keep the root, and renew the issuing certificate.
    pub fn is_given(&self) -> bool {
        matches!(self.above, Above::Others { .. })
    }

    /// The root that the issuing certificate leads to, as DER.
    pub(crate) fn root(&self) -> &[u8] {
        match &self.above {
            Above::Own(root) => &root.der,
            Above::Others { roots, .. } => roots.first().map(Vec::as_slice).unwrap_or_default(),
        }
    }

    fn own_root(&self) -> Result<&Ca, CertError> {
        match &self.above {
            Above::Own(root) => Ok(root),
            Above::Others { .. } => Err(CertError::Authority("root's key is not here")),
        }
    }

    /// What peers must trust, as DER, that which certificates lead to first.
    pub fn anchors(&self) -> Vec<Vec<u8>> {
        match &self.above {
            Above::Own(root) => vec![root.der.clone()],
            Above::Others { roots, .. } => roots.clone(),
        }
    }

    /// What peers must trust, as PEM.
    pub fn anchors_pem(&self) -> String {
        pem::from_certificates(&self.anchors())
    }

    /// What follows a certificate that is issued, up to the root.
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        match &self.above {
            Above::Own(_) => vec![self.issuing.der.clone()],
            // A root may sign itself; peers hold it already.
            Above::Others { roots, .. } if roots.contains(&self.issuing.der) => Vec::new(),
            Above::Others { between, .. } => {
                std::iter::once(&self.issuing.der).chain(between).cloned().collect()
            }
        }
    }

    /// The name of the certificate that signs.
    pub fn issuer(&self) -> &str {
        &self.issuing.name
    }

    /// When the issuing certificate's life ends; to be renewed well before.
    pub fn issuing_not_after(&self) -> SystemTime {
        self.issuing.not_after
    }

    /// An X.509-SVID for the key of a request. Of the request only the key is used.
    pub fn sign(&self, request: &[u8], wanted: &IssueParams) -> Result<Issued, CertError> {
        if wanted.identity.trust_domain() != &self.domain {
            let (identity, domain) = (wanted.identity.clone(), self.domain.clone());
            return Err(CertError::ForeignIdentity { identity, domain });
        }
        let key = csr::requested_key(request, &wanted.identity)?;
        let (not_before, not_after) = self.life(wanted)?;
        let serial = random_serial()?;

        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        // An empty subject makes rcgen mark the names as critical (RFC 5280 section 4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names(wanted)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        set_life(&mut params, not_before, not_after);
        let certificate =
            params.signed_by(&key, &self.issuing.issuer).map_err(|e| CertError::Write("certificate", e))?;
        Ok(Issued {
            chain: std::iter::once(certificate.der().to_vec()).chain(self.chain()).collect(),
            serial: spiffe::hex(&serial),
            issuer: self.issuing.name.clone(),
            root: fingerprint(self.root()),
            not_before: time_at(not_before),
            not_after: time_at(not_after),
        })
    }

    /// The first and last second of a certificate, back-dated by no more than its life.
    fn life(&self, wanted: &IssueParams) -> Result<(u64, u64), CertError> {
        if wanted.ttl < Duration::from_secs(1) {
            return Err(CertError::Lifetime(wanted.ttl));
        }
        if wanted.now >= self.issuing.not_after {
            return Err(CertError::IssuerExpired);
        }
        let end = wanted.now.checked_add(wanted.ttl).ok_or(CertError::Lifetime(wanted.ttl))?;
        let end = second_after(end.min(self.issuing.not_after))?;
        let start = wanted.now.checked_sub(wanted.ttl.min(BACK_DATING)).ok_or(CertError::Time)?;
        Ok((second_before(start)?, end))
    }
}

/// What tells a certificate from any other: its SHA-256, in hexadecimal digits.
pub fn fingerprint(certificate: &[u8]) -> String {
    spiffe::digits(digest(&SHA256, certificate).as_ref())
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("domain", &self.domain)
            .field("is_given", &self.is_given())
            .field("issuing", &self.issuing.name)
            .finish_non_exhaustive()
    }
}

impl Ca {
    pub(crate) fn new(der: Vec<u8>, key: rcgen::KeyPair) -> Result<Self, CertError> {
        let certificate = spiffe::parse(&der)?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(CertError::Authority("key is not that of its certificate"));
        }
        let usage = certificate.key_usage().ok().flatten();
        if !certificate.is_ca() || !usage.is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(CertError::Authority("certificate may not sign certificates"));
        }
        let name = spiffe::name_of(&certificate);
        let not_before = spiffe::time_of(certificate.validity().not_before)?;
        let not_after = spiffe::time_of(certificate.validity().not_after)?;
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), key)
            .map_err(|_| CertError::Malformed("authority's certificate"))?;
        Ok(Self { der, name, not_before, not_after, issuer })
    }

    fn issuing(&self, domain: &TrustDomain, now: SystemTime) -> Result<Self, CertError> {
        let key = KeyPair::generate()?.into_inner();
        let life =
            ISSUING_LIFE.min(self.not_after.duration_since(now).map_err(|_| CertError::IssuerExpired)?);
        let params = ca_params(domain, "issuing", BasicConstraints::Constrained(0), now, life)?;
        let certificate =
            params.signed_by(&key, &self.issuer).map_err(|e| CertError::Write("issuing certificate", e))?;
        Self::new(certificate.der().to_vec(), key)
    }
}

fn ca_params(
    domain: &TrustDomain,
    role: &str,
    constraints: BasicConstraints,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, CertError> {
    let serial = random_serial()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // Distinct names keep path building straight where several generations are trusted at once.
    let generation = spiffe::hex(serial.get(..4).unwrap_or_default());
    params.distinguished_name.push(DnType::CommonName, format!("Weft {role} {generation}"));
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.subject_alt_names = vec![SanType::URI(ascii(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    let start = now.checked_sub(BACK_DATING).ok_or(CertError::Time)?;
    let end = now.checked_add(life).ok_or(CertError::Lifetime(life))?;
    set_life(&mut params, second_before(start)?, second_after(end)?);
    Ok(params)
}

fn names(wanted: &IssueParams) -> Result<Vec<SanType>, CertError> {
    let mut names = vec![SanType::URI(ascii(wanted.identity.as_str())?)];
    for name in &wanted.dns {
        DnsName::try_from(name.as_str()).map_err(|_| CertError::DnsName(name.clone()))?;
        names.push(SanType::DnsName(ascii(name)?));
    }
    names.extend(wanted.ips.iter().map(|ip| SanType::IpAddress(*ip)));
    Ok(names)
}

fn ascii(text: &str) -> Result<Ia5String, CertError> {
    Ia5String::try_from(text).map_err(|e| CertError::Write("name", e))
}

/// Sixteen bytes, positive, never shorter (RFC 5280 section 4.1.2.2 allows twenty and asks for one).
fn random_serial() -> Result<[u8; 16], CertError> {
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| CertError::Random)?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

fn set_life(params: &mut CertificateParams, not_before: u64, not_after: u64) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(not_before);
    params.not_after = epoch + Duration::from_secs(not_after);
}

fn second_before(time: SystemTime) -> Result<u64, CertError> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| CertError::Time)?;
    Some(since.as_secs()).filter(|second| *second <= LAST_SECOND).ok_or(CertError::Time)
}

fn second_after(time: SystemTime) -> Result<u64, CertError> {
    second_before(time.checked_add(Duration::from_nanos(999_999_999)).ok_or(CertError::Time)?)
}

fn time_at(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}
