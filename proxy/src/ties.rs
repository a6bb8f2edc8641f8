//! What a worker's open connections rest on, so that those end whose peer is not believed any more, or is let in no longer.
//!
//! Whoever ends one marks it and wakes its task, which finds the mark when it next touches its stream. Nothing is locked, and
//! a connection that goes on costs a look at its mark.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::header::HOST;
use http::{HeaderName, HeaderValue, Uri, request};
use weft_certs::PeerCertificate;
use weft_core::authorize::{Call, Denial, Peer, authorize};
use weft_core::jwt::Claims;
use weft_core::model::{Mesh, MtlsMode, Revocations, Trust, Workload};
use weft_runtime::drain::DrainWatch;

use crate::http::head::{Fields, Head};
use crate::inbound::Seen;
use crate::state::{Discovery, Snapshot};

/// Ties that are kept before those of closed connections are looked for.
const FIRST_SWEEP: usize = 64;

/// The ties of one worker's connections.
#[derive(Debug, Default)]
pub struct Ties {
    all: RefCell<Vec<Weak<Inner>>>,
    /// So many may be kept before the closed ones are forgotten.
    sweep_at: Cell<usize>,
    revocations: RefCell<Arc<Revocations>>,
}

/// What one connection, or one tunnel on it, rests on.
#[derive(Clone)]
pub struct Tie(Rc<Inner>);

struct Inner {
    peer: Option<PeerCertificate>,
    let_in: Option<LetIn>,
    /// The app's port that it came to in plaintext, while that was allowed.
    plaintext_to: Option<u16>,
    cut: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Bytes that a policy has let in, for as long as it does.
#[derive(Debug, Clone)]
pub struct LetIn {
    /// From where.
    pub address: IpAddr,
    /// To which port of the app.
    pub port: u16,
    /// The request that they go on from (`CONNECT`, or an upgrade); none: the connection carries bytes.
    pub request: Option<Rc<request::Parts>>,
    /// What its token has proved.
    pub claims: Option<Rc<Claims>>,
}

/// Why a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// Its peer is not believed any more.
    Revoked,
    /// It is let in no longer.
    Denied,
    /// It has no identity, and is to have one by now.
    Plaintext,
}

/// What has been gone by.
#[derive(Default)]
struct Reviewed {
    trust: Option<Arc<Trust>>,
    mesh: Option<Arc<Mesh>>,
    workload: Option<Arc<Workload>>,
}

impl Ties {
    /// Keeps a connection in mind until what is returned is dropped.
    pub fn tie(&self, peer: Option<PeerCertificate>, let_in: Option<LetIn>) -> Tie {
        // Its handshake may have begun before its peer was revoked.
        let is_revoked = peer.as_ref().is_some_and(|peer| self.hold(peer));
        let cut = Cell::new(is_revoked);
        self.keep(Inner { peer, let_in, plaintext_to: None, cut, waker: RefCell::default() })
    }

    /// The same for one that came in plaintext to this port of the app, and was let in.
    pub fn tie_plaintext(&self, port: u16) -> Tie {
        let (cut, waker) = (Cell::new(false), RefCell::default());
        self.keep(Inner { peer: None, let_in: None, plaintext_to: Some(port), cut, waker })
    }

    fn keep(&self, inner: Inner) -> Tie {
        let tie = Tie(Rc::new(inner));
        let mut all = self.all.borrow_mut();
        if all.len() >= self.sweep_at.get().max(FIRST_SWEEP) {
            all.retain(|tie| tie.strong_count() > 0);
            self.sweep_at.set(2 * all.len());
        }
        all.push(Rc::downgrade(&tie.0));
        tie
    }

    fn hold(&self, peer: &PeerCertificate) -> bool {
        self.revocations.borrow().hold(&peer.identity, &peer.serial)
    }

    /// Reviews all connections whenever what they rest on has changed; `ended` hears why some ended.
    pub async fn review(&self, mut discovery: Discovery, mut closing: DrainWatch, ended: impl Fn(Cut, u64)) {
        let mut reviewed = Reviewed::default();
        loop {
            let snapshot = discovery.snapshot();
            if reviewed.differs(&snapshot) {
                if let Some(trust) = &snapshot.trust {
                    *self.revocations.borrow_mut() = Arc::new(Revocations::new(&trust.revoked));
                }
                for (cut, count) in self.cut(&snapshot) {
                    tracing::info!(reason = cut.as_str(), count, "ended open connections");
                    ended(cut, count);
                }
                reviewed = Reviewed::of(&snapshot);
            }
            tokio::select! {
                () = discovery.changed() => {}
                () = closing.draining() => return,
            }
        }
    }

    /// Ends what does not hold any more; how many for each reason.
    fn cut(&self, snapshot: &Snapshot) -> HashMap<Cut, u64> {
        let mut ended = HashMap::new();
        for tie in self.all.borrow().iter().filter_map(Weak::upgrade).filter(|tie| !tie.cut.get()) {
            let Some(cut) = self.judge(&tie, snapshot) else { continue };
            *ended.entry(cut).or_default() += 1;
            tie.cut.set(true);
            if let Some(waker) = tie.waker.take() {
                waker.wake();
            }
        }
        ended
    }

    /// Why a connection is to end; none: it goes on.
    fn judge(&self, tie: &Inner, snapshot: &Snapshot) -> Option<Cut> {
        if tie.peer.as_ref().is_some_and(|peer| self.hold(peer)) {
            return Some(Cut::Revoked);
        }
        if tie.plaintext_to.is_some_and(|port| is_strict(port, snapshot)) {
            return Some(Cut::Plaintext);
        }
        let let_in = tie.let_in.as_ref()?;
        is_denied(tie, let_in, snapshot).then_some(Cut::Denied)
    }
}

/// Whether a port takes no plaintext. Where nothing is known for the moment what is open stays.
fn is_strict(port: u16, snapshot: &Snapshot) -> bool {
    let known = snapshot.mesh.as_ref().zip(snapshot.workload.as_ref());
    known.is_some_and(|(mesh, workload)| workload.mtls(port, mesh.mtls) == MtlsMode::Strict)
}

/// Whether what was let in would not be let in now. Where nothing is known for the moment it stays.
fn is_denied(tie: &Inner, let_in: &LetIn, snapshot: &Snapshot) -> bool {
    let (Some(mesh), Some(workload)) = (&snapshot.mesh, &snapshot.workload) else { return false };
    let peer = tie.peer.as_ref().map_or(Peer::Anonymous, |peer| Peer::Known(peer.identity.clone()));
    let seen = let_in.request.as_deref().map(|request| Seen::new(request, let_in.claims.clone()));
    let request = seen.as_ref().map(|seen| seen as &dyn weft_core::authorize::Asked);
    let call = Call { peer: &peer, address: let_in.address, port: let_in.port, request };
    match authorize(Some(mesh), workload, &call, |_, _| {}) {
        Ok(_) | Err(Denial::NoConfiguration) => false,
        Err(_) => true,
    }
}

impl Tie {
    /// Whether the connection is to end.
    pub fn is_cut(&self) -> bool {
        self.0.cut.get()
    }

    /// Who proved what at its other end.
    pub fn peer(&self) -> Option<&PeerCertificate> {
        self.0.peer.as_ref()
    }

    /// Has the task woken where the connection is to end.
    pub fn wake_at_cut(&self, cx: &Context<'_>) {
        let mut waker = self.0.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Ready once the connection is to end.
    pub fn poll_cut(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_cut() {
            return Poll::Ready(());
        }
        self.wake_at_cut(cx);
        Poll::Pending
    }
}

impl fmt::Debug for Tie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tie").field("peer", &self.0.peer).field("cut", &self.0.cut).finish_non_exhaustive()
    }
}

impl Cut {
    /// As metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Denied => "denied",
            Self::Plaintext => "plaintext",
        }
    }
}

impl Reviewed {
    fn of(snapshot: &Snapshot) -> Self {
        let Snapshot { trust, mesh, workload, .. } = snapshot;
        Self { trust: trust.clone(), mesh: mesh.clone(), workload: workload.clone() }
    }

    fn differs(&self, snapshot: &Snapshot) -> bool {
        fn same<T>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                _ => false,
            }
        }
        !same(self.trust.as_ref(), snapshot.trust.as_ref())
            || !same(self.mesh.as_ref(), snapshot.mesh.as_ref())
            || !same(self.workload.as_ref(), snapshot.workload.as_ref())
    }
}

/// What policies may ask of a request, kept; none where it cannot be: then it is judged as bytes are.
pub fn kept(head: &impl Head) -> Option<request::Parts> {
    let target = match head.target() {
        Some(target) => target.parse::<Uri>().ok()?,
        None => Uri::builder().authority(head.authority()).build().ok()?,
    };
    let mut parts = http::Request::builder().method(head.method()).uri(target).body(()).ok()?.into_parts().0;
    for name in head.fields().names() {
        let name = HeaderName::from_bytes(name).ok()?;
        if !parts.headers.contains_key(&name) {
            for value in head.fields().all(&name) {
                parts.headers.append(&name, HeaderValue::from_bytes(value).ok()?);
            }
        }
    }
    parts.headers.insert(HOST, head.authority().parse().ok()?);
    Some(parts)
}
