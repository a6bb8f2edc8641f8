//! A trust domain's roots, and the move from one to the next.
//!
//! A move has two steps that wait: the new root is announced until everybody trusts both, then it signs until no
//! certificate of the former one is left. While both are trusted, what the new one signs also comes with a certificate
//! for the new root by the former: whoever missed the announcement takes it all the same.
//!
//! Where others keep the roots ([`Authority::given`]), what they give is followed by the same steps.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::pem::Pem;
use weft_core::model::TrustDomain;

use crate::issue::fingerprint;
use crate::{Authority, CertError, IssueParams, Issued, pem, spiffe};

/// The section that says how far a move has come. What is written without one has never moved.
const STATE: &str = "WEFT CA STATE";

/// The section that says what is trusted of roots that others keep.
const GIVEN: &str = "WEFT CA GIVEN";

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
    Moved { former: Vec<Vec<u8>> },
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
    /// It is trusted beside that which signs.
    Trusted,
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
    /// Others keep the roots.
    #[error(
        "roots and issuing certificate are in files that others write: have them renewed there, and the mesh follows"
    )]
    Given,
    /// There is nothing to be given up.
    #[error("no move to another root is under way")]
    NoMove,
    /// What was announced is in use.
    #[error(
        "the new root signs already, and its certificates are in use: let the move end, which weft ca status shows, and move on with weft ca rotate"
    )]
    TooLate,
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
            Phase::Moved => Stage::Moved { former: vec![certificate()?] },
            Phase::Announced => Stage::Announced { next: Authority::from_sections(&mut sections)? },
        };
        Ok(Self { current, stage, since: state.since, sequence: state.sequence, crosses })
    }

    /// What others keep, after what [`Roots::to_pem`] wrote of the same before: what was trusted then is trusted until
    /// nobody needs it any more.
    pub fn given(authority: Authority, remembered: Option<&str>, now: SystemTime) -> Result<Self, CertError> {
        let fresh = Self::steady(authority, now);
        let Some(text) = remembered else { return Ok(fresh) };
        let mut sections = pem::sections(text)?.into_iter();
        let state = sections.next().filter(|section| section.tag() == GIVEN);
        let state = state.and_then(|state| State::read(state.contents()));
        let state = state.ok_or(CertError::Malformed("state of the authority"))?;
        let trusted: Vec<_> = sections.map(Pem::into_contents).collect();
        let anchors = fresh.current.anchors();
        let former = without(&trusted, &anchors);
        let known = Self { sequence: state.sequence, since: state.since, ..fresh };
        match (former.is_empty(), anchors.len() == trusted.len()) {
            (true, true) => Ok(known),
            (true, false) => Ok(known.renumber(now)),
            (false, _) => Ok(known.become_at(Stage::Moved { former }, now)),
        }
    }

    /// Whether others keep what signs now.
    pub fn is_given(&self) -> bool {
        self.current.is_given()
    }

    /// With what others have made: at once, where its root is trusted already, else announced. None where it is in force
    /// or announced already, or must wait for the end of a move.
    pub fn follow(&self, given: &Authority, now: SystemTime) -> Option<Self> {
        let is_announced = matches!(&self.stage, Stage::Announced { next } if next.is_same(given));
        if self.current.is_same(given) {
            // What was announced may have been taken back.
            let goes_back = matches!(self.stage, Stage::Announced { .. });
            return goes_back.then(|| self.become_at(Stage::Steady, now));
        }
        if is_announced {
            return None;
        }
        let is_trusted = self.current.anchors().iter().any(|anchor| anchor == given.root());
        match (&self.stage, is_trusted) {
            (Stage::Steady | Stage::Announced { .. }, true) => Some(self.sign_by(given.clone(), &[], now)),
            (Stage::Steady | Stage::Announced { .. }, false) => {
                Some(self.become_at(Stage::Announced { next: given.clone() }, now))
            }
            (Stage::Moved { former }, true) => Some(self.sign_by(given.clone(), former, now)),
            (Stage::Moved { .. }, false) => None,
        }
    }

    /// With another authority that signs; what was trusted and is not of it is former, beside what was so before.
    fn sign_by(&self, next: Authority, before: &[Vec<u8>], now: SystemTime) -> Self {
        let anchors = next.anchors();
        let mut former = without(&self.current.anchors(), &anchors);
        former.extend(without(&without(before, &anchors), &former));
        let stage = if former.is_empty() { Stage::Steady } else { Stage::Moved { former } };
        Self { current: next, ..self.clone() }.become_at(stage, now)
    }

    /// All of it, keys too, to be kept where only the control plane reads it. Of what others keep, what is trusted alone.
    pub fn to_pem(&self) -> String {
        if self.is_given() {
            let state =
                State { phase: Phase::Steady, since: self.since, sequence: self.sequence, crosses: 0 };
            return pem::section(GIVEN, state.to_string().as_bytes())
                + &pem::from_certificates(&self.anchors());
        }
        let state = State {
            phase: self.kept_phase(),
            since: self.since,
            sequence: self.sequence,
            crosses: self.crosses.len(),
        };
        let mut text = pem::section(STATE, state.to_string().as_bytes());
        text.push_str(&self.current.to_pem());
        text.push_str(&pem::from_certificates(&self.crosses));
        match &self.stage {
            Stage::Steady => {}
            // It is announced anew after a restart, as it is then.
            Stage::Announced { next } if next.is_given() => {}
            Stage::Announced { next } => text.push_str(&next.to_pem()),
            Stage::Moved { former } => text.push_str(&pem::from_certificates(former)),
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

    fn kept_phase(&self) -> Phase {
        match &self.stage {
            Stage::Announced { next } if next.is_given() => Phase::Steady,
            _ => self.phase(),
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
            Stage::Announced { next } => anchors.extend(without(&next.anchors(), &anchors)),
            Stage::Moved { former } => anchors.extend_from_slice(former),
        }
        anchors
    }

    /// Whether the root of this fingerprint stays trusted whatever is in use.
    pub fn is_lasting(&self, fingerprint_of_root: &str) -> bool {
        self.current.anchors().iter().any(|anchor| fingerprint(anchor) == fingerprint_of_root)
    }

    /// The roots, that which signs first.
    pub fn roots(&self) -> Result<Vec<Root>, CertError> {
        let lasting = self.current.anchors().len();
        let other = match self.stage {
            Stage::Announced { .. } => Role::Next,
            Stage::Steady | Stage::Moved { .. } => Role::Former,
        };
        let role = |index| match index {
            0 => Role::Signing,
            index if index < lasting => Role::Trusted,
            _ => other,
        };
        self.anchors().iter().enumerate().map(|(index, der)| Root::new(der, role(index))).collect()
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
        if self.is_given() || matches!(&self.stage, Stage::Announced { next } if next.is_given()) {
            return Err(RotateError::Given);
        }
        let Stage::Steady = self.stage else { return Err(RotateError::UnderWay) };
        let next = Authority::create(self.trust_domain(), now).map_err(RotateError::Make)?;
        Ok(self.become_at(Stage::Announced { next }, now))
    }

    /// With the old root alone, where the new one is only announced: nothing leads to it yet.
    pub fn abort(&self, now: SystemTime) -> Result<Self, RotateError> {
        match &self.stage {
            Stage::Announced { next } if next.is_given() => Err(RotateError::Given),
            Stage::Announced { .. } => Ok(self.become_at(Stage::Steady, now)),
            Stage::Moved { .. } => Err(RotateError::TooLate),
            Stage::Steady => Err(RotateError::NoMove),
        }
    }

    /// The next step of a move, where what it waits for has come.
    pub fn advance(&self, progress: Progress, now: SystemTime) -> Result<Option<Self>, CertError> {
        if progress.unaware > 0 {
            return Ok(None);
        }
        match &self.stage {
            Stage::Steady => Ok(None),
            Stage::Announced { next } if next.is_given() => Ok(Some(self.sign_by(next.clone(), &[], now))),
            Stage::Announced { next } => {
                let mut crosses = vec![self.current.cross_sign(next, now)?];
                crosses.extend(self.crosses.iter().take(KEPT_CROSSES - 1).cloned());
                let former = vec![self.current.root().to_vec()];
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
        let not_after = spiffe::time_of(certificate.validity().not_after)?;
        Ok(Self { name: spiffe::name_of(&certificate), fingerprint: fingerprint(der), role, not_after })
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
            Self::Trusted => "trusted",
            Self::Next => "next",
            Self::Former => "former",
        }
    }
}

fn without(these: &[Vec<u8>], those: &[Vec<u8>]) -> Vec<Vec<u8>> {
    these.iter().filter(|this| !those.contains(this)).cloned().collect()
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
