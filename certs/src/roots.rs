//! A trust domain's roots, and the move from one to the next.
//!
//! A move has two steps that wait: the new root is announced until everybody trusts both, then it signs until no
//! certificate of the former one is left. While both are trusted, what the new one signs also comes with a certificate
//! for the new root by the former: whoever missed the announcement takes it all the same.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::pem::Pem;
use weft_core::model::TrustDomain;

use crate::issue::fingerprint;
use crate::{Authority, CertError, IssueParams, Issued, pem, spiffe};

/// The section that says how far a move has come. What is written without one has never moved.
const STATE: &str = "WEFT CA STATE";

/// Certificates for newer roots by older ones that are kept: whoever was away for more moves needs the roots anew.
const KEPT_CROSSES: usize = 2;

/// How long after its last use a certificate may still be judged in a handshake that began before.
pub const SETTLING: Duration = Duration::from_secs(6);

/// Roots, what is signed with, and how far a move has come. Cheap to clone: each change makes another value.
#[derive(Clone)]
pub struct Roots {
    current: Authority,
    stage: Stage,
    since: SystemTime,
    sequence: u64,
    /// Certificates for the current root by former ones, the latest first.
    crosses: Vec<Vec<u8>>,
}

#[derive(Clone)]
enum Stage {
    Steady,
    Announced { next: Authority },
    Moved { former: Vec<u8> },
}

/// How far a move has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is one root.
    Steady,
    /// A new root is trusted beside the old one, which still signs.
    Announced,
    /// The new root signs; the former one is still trusted.
    Moved,
}

/// A root, as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its name.
    pub name: String,
    /// What certificates call it by.
    pub fingerprint: String,
    /// What it is for.
    pub role: Role,
    /// When its life ends.
    pub not_after: SystemTime,
}

/// What a root is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It signs.
    Signing,
    /// It will sign.
    Next,
    /// It has signed.
    Former,
}

/// What is known of everybody else, as far as a move waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Members that have not said yet that they trust what is trusted now.
    pub unaware: usize,
    /// Certificates of the former root that are still in use, or were until [`SETTLING`] ago.
    pub former_in_use: usize,
}

/// Why no move begins.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// One is under way.
    #[error("a move to another root is under way already")]
    UnderWay,
    /// The new root cannot be made.
    #[error("cannot make a new root")]
    Make(#[source] CertError),
}

impl Roots {
    /// A first root.
    pub fn create(domain: &TrustDomain, now: SystemTime) -> Result<Self, CertError> {
        Ok(Self::steady(Authority::create(domain, now)?, now))
    }

    fn steady(current: Authority, now: SystemTime) -> Self {
        Self { current, stage: Stage::Steady, since: now, sequence: after(0, now), crosses: Vec::new() }
    }

    /// What [`Roots::to_pem`] wrote, or [`Authority::to_pem`].
    pub fn from_pem(text: &str, now: SystemTime) -> Result<Self, CertError> {
        let mut sections = pem::sections(text)?.into_iter().peekable();
        let Some(state) = sections.next_if(|section| section.tag() == STATE) else {
            return Ok(Self::steady(Authority::from_sections(&mut sections)?, now));
        };
        let state = State::read(state.contents()).ok_or(CertError::Malformed("state of the authority"))?;
        let current = Authority::from_sections(&mut sections)?;
        let mut certificate = || {
            let section = sections.next().filter(|section| section.tag() == pem::CERTIFICATE);
            section.map(Pem::into_contents).ok_or(CertError::PemMissing("certificate of a root"))
        };
        let mut crosses = Vec::new();
        for _ in 0..state.crosses {
            crosses.push(certificate()?);
        }
        let stage = match state.phase {
            Phase::Steady => Stage::Steady,
            Phase::Moved => Stage::Moved { former: certificate()? },
            Phase::Announced => Stage::Announced { next: Authority::from_sections(&mut sections)? },
        };
        Ok(Self { current, stage, since: state.since, sequence: state.sequence, crosses })
    }

    /// All of it, keys too, to be kept where only the control plane reads it.
    pub fn to_pem(&self) -> String {
        let state = State {
            phase: self.phase(),
            since: self.since,
            sequence: self.sequence,
            crosses: self.crosses.len(),
        };
        let mut text = pem::section(STATE, state.to_string().as_bytes());
        text.push_str(&self.current.to_pem());
        text.push_str(&pem::from_certificates(&self.crosses));
        match &self.stage {
            Stage::Steady => {}
            Stage::Announced { next } => text.push_str(&next.to_pem()),
            Stage::Moved { former } => text.push_str(&pem::from_certificates(&[former])),
        }
        text
    }

    /// The trust domain that they speak for.
    pub fn trust_domain(&self) -> &TrustDomain {
        self.current.trust_domain()
    }

    /// How far a move has come.
    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Steady => Phase::Steady,
            Stage::Announced { .. } => Phase::Announced,
            Stage::Moved { .. } => Phase::Moved,
        }
    }

    /// Since when.
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Counts up with every change of what is trusted.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What is to be trusted, as DER, that which signs first.
    pub fn anchors(&self) -> Vec<Vec<u8>> {
        let mut anchors = self.current.anchors();
        match &self.stage {
            Stage::Steady => {}
            Stage::Announced { next } => anchors.extend(next.anchors()),
            Stage::Moved { former } => anchors.push(former.clone()),
        }
        anchors
    }

    /// The roots, that which signs first.
    pub fn roots(&self) -> Result<Vec<Root>, CertError> {
        let other = match self.stage {
            Stage::Announced { .. } => Role::Next,
            Stage::Steady | Stage::Moved { .. } => Role::Former,
        };
        let roles = [Role::Signing, other];
        self.anchors().iter().zip(roles).map(|(der, role)| Root::new(der, role)).collect()
    }

    /// The name of the certificate that signs.
    pub fn issuer(&self) -> &str {
        self.current.issuer()
    }

    /// When the certificate that signs ends.
    pub fn issuing_not_after(&self) -> SystemTime {
        self.current.issuing_not_after()
    }

    /// A certificate for a member, see [`Authority::sign`].
    pub fn sign(&self, request: &[u8], wanted: &IssueParams) -> Result<Issued, CertError> {
        let crosses = match self.stage {
            Stage::Moved { .. } => self.crosses.get(..1).unwrap_or_default(),
            Stage::Steady | Stage::Announced { .. } => &[],
        };
        self.sign_with(request, wanted, crosses)
    }

    /// The same for one whom those must believe too who were away for a whole move.
    pub fn sign_for_latecomers(&self, request: &[u8], wanted: &IssueParams) -> Result<Issued, CertError> {
        self.sign_with(request, wanted, &self.crosses)
    }

    fn sign_with(
        &self,
        request: &[u8],
        wanted: &IssueParams,
        crosses: &[Vec<u8>],
    ) -> Result<Issued, CertError> {
        let mut issued = self.current.sign(request, wanted)?;
        issued.chain.extend_from_slice(crosses);
        Ok(issued)
    }

    /// With another issuing certificate, where that is due.
    pub fn renew_issuing(&self, now: SystemTime) -> Result<Option<Self>, CertError> {
        if !self.current.renews_issuing(now) {
            return Ok(None);
        }
        Ok(Some(Self { current: self.current.clone().renew_issuing(now)?, ..self.clone() }))
    }

    /// With a new root that is trusted, but does not sign yet.
    pub fn rotate(&self, now: SystemTime) -> Result<Self, RotateError> {
        let Stage::Steady = self.stage else { return Err(RotateError::UnderWay) };
        let next = Authority::create(self.trust_domain(), now).map_err(RotateError::Make)?;
        Ok(self.become_at(Stage::Announced { next }, now))
    }

    /// The next step of a move, where what it waits for has come.
    pub fn advance(&self, progress: Progress, now: SystemTime) -> Result<Option<Self>, CertError> {
        if progress.unaware > 0 {
            return Ok(None);
        }
        match &self.stage {
            Stage::Steady => Ok(None),
            Stage::Announced { next } => {
                let mut crosses = vec![self.current.cross_sign(next, now)?];
                crosses.extend(self.crosses.iter().take(KEPT_CROSSES - 1).cloned());
                let former = self.current.root().to_vec();
                // The keys of the former root are forgotten: it signs nothing any more.
                let moved = Self { current: next.clone(), crosses, ..self.clone() };
                Ok(Some(moved.become_at(Stage::Moved { former }, now)))
            }
            Stage::Moved { .. } if progress.former_in_use > 0 => Ok(None),
            Stage::Moved { .. } => Ok(Some(self.become_at(Stage::Steady, now))),
        }
    }

    /// With a new number, because something else that goes with it has changed.
    pub fn renumber(&self, now: SystemTime) -> Self {
        Self { sequence: after(self.sequence, now), ..self.clone() }
    }

    fn become_at(&self, stage: Stage, now: SystemTime) -> Self {
        Self { stage, since: now, ..self.renumber(now) }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots")
            .field("current", &self.current)
            .field("phase", &self.phase())
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Root {
    fn new(der: &[u8], role: Role) -> Result<Self, CertError> {
        let certificate = spiffe::parse(der)?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let not_after = spiffe::time_of(certificate.validity().not_after)?;
        let name = name.unwrap_or_default().to_owned();
        Ok(Self { name, fingerprint: fingerprint(der), role, not_after })
    }
}

impl Phase {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Announced => "announced",
            Self::Moved => "moved",
        }
    }
}

impl Role {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Signing => "signing",
            Self::Next => "next",
            Self::Former => "former",
        }
    }
}

/// A number above that one, and above all that a data directory which was lost has given out.
fn after(sequence: u64, now: SystemTime) -> u64 {
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).max(sequence.saturating_add(1))
}

/// What is written besides certificates and keys.
struct State {
    phase: Phase,
    since: SystemTime,
    sequence: u64,
    crosses: usize,
}

impl State {
    fn read(contents: &[u8]) -> Option<Self> {
        let mut words = str::from_utf8(contents).ok()?.split_whitespace();
        let phase = match words.next()? {
            "steady" => Phase::Steady,
            "announced" => Phase::Announced,
            "moved" => Phase::Moved,
            _ => return None,
        };
        let since = UNIX_EPOCH.checked_add(Duration::from_secs(words.next()?.parse().ok()?))?;
        let (sequence, crosses) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then_some(Self { phase, since, sequence, crosses })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        write!(f, "{} {since} {} {}", self.phase.as_str(), self.sequence, self.crosses)
    }
}
