//! An authority whose certificates others make and renew: an issuing certificate with its key, and the roots that it leads to.
//!
//! What is given is tried before it is taken: a half-written pair, a chain that leads nowhere and a root that speaks for
//! others sign nothing.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_core::model::TrustDomain;

use crate::issue::{Above, Ca};
use crate::{Authority, CertError, Credentials, IssueParams, KeyPair, csr, pem, spiffe};

/// Certificates between the issuing one and a root.
const LONGEST_CHAIN: usize = 8;

impl Authority {
    /// Of an issuing certificate, with those between it and a root after it; its key; and roots, all as PEM.
    pub fn given(
        domain: &TrustDomain,
        chain: &str,
        key: &str,
        roots: &str,
        now: SystemTime,
    ) -> Result<Self, CertError> {
        let mut chain = pem::certificates(chain)?.into_iter();
        let issuing = chain.next().ok_or(CertError::EmptyChain)?;
        let key =
            rcgen::KeyPair::try_from(pem::private_key(key)?.contents()).map_err(CertError::IssuingKey)?;
        let mut issuing = Ca::new(issuing, key)?;
        let mut roots = pem::certificates(roots)?;
        for root in &roots {
            check_domain(root, domain)?;
        }
        let (between, root) = lead(&issuing.der, &chain.collect::<Vec<_>>(), &roots)?;
        // What certificates lead to stands first.
        roots.swap(0, root);
        roots.dedup();
        for certificate in between.iter().chain(roots.first()) {
            spiffe::may_sign_certificates(certificate)?;
            let ends = spiffe::time_of(spiffe::parse(certificate)?.validity().not_after)?;
            issuing.not_after = issuing.not_after.min(ends);
        }
        if issuing.not_before > now {
            return Err(CertError::Authority("issuing certificate is not valid yet"));
        }
        let authority = Self {
            domain: domain.clone(),
            above: Above::Others { between, roots },
            issuing: Arc::new(issuing),
        };
        authority.check(now)?;
        Ok(authority)
    }

    /// Whether both sign with the same, and are trusted by the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.issuing.der == other.issuing.der
            && self.chain() == other.chain()
            && self.anchors() == other.anchors()
    }

    /// Signs a certificate, and judges it as peers do.
    fn check(&self, now: SystemTime) -> Result<(), CertError> {
        let key = KeyPair::generate()?;
        let identity =
            format!("spiffe://{}/ns/weft/sa/probe", self.domain).parse().map_err(CertError::Identity)?;
        let ttl = Duration::from_mins(1);
        let wanted = IssueParams { identity, dns: Vec::new(), ips: Vec::new(), ttl, now };
        let issued = self.sign(&csr::request(&key)?, &wanted)?;
        let probe = Credentials::new(issued.chain, &key, &self.anchors(), &self.domain)?;
        match probe.is_of_first_anchor() {
            true => Ok(()),
            false => Err(CertError::Authority("issuing certificate signs nothing that its roots vouch for")),
        }
    }
}

fn check_domain(root: &[u8], domain: &TrustDomain) -> Result<(), CertError> {
    match spiffe::trust_domain_of(root) {
        Ok(named) if named == *domain => Ok(()),
        Err(error @ CertError::Malformed(_)) => Err(error),
        Ok(_) | Err(_) => Err(CertError::RootDomain {
            name: spiffe::name_of(&spiffe::parse(root)?),
            domain: domain.clone(),
        }),
    }
}

/// The certificates on the way from one to a root, and which root.
fn lead(from: &[u8], others: &[Vec<u8>], roots: &[Vec<u8>]) -> Result<(Vec<Vec<u8>>, usize), CertError> {
    let mut between: Vec<Vec<u8>> = Vec::new();
    while between.len() < LONGEST_CHAIN {
        let last = between.last().map_or(from, Vec::as_slice);
        for (index, root) in roots.iter().enumerate() {
            if root == last || is_signed_by(last, root)? {
                between.retain(|certificate| certificate != root);
                return Ok((between, index));
            }
        }
        let mut next = None;
        for other in others.iter().filter(|other| *other != last && !between.contains(other)) {
            if is_signed_by(last, other)? {
                next = Some(other.clone());
            }
        }
        let Some(next) = next else { break };
        between.push(next);
    }
    Err(CertError::Authority("issuing certificate leads to none of its roots"))
}

fn is_signed_by(certificate: &[u8], by: &[u8]) -> Result<bool, CertError> {
    let (certificate, by) = (spiffe::parse(certificate)?, spiffe::parse(by)?);
    let is_named = certificate.issuer().as_raw() == by.subject().as_raw();
    Ok(is_named && certificate.verify_signature(Some(by.public_key())).is_ok())
}
