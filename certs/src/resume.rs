//! Handshakes that go on where a connection broke: between a sidecar and its control plane alone.
//!
//! When a network fails, thousands of sidecars come back to one control plane at once, and what that costs is proving again who
//! everybody is. Who comes back to the same process proves it by a secret of the last handshake instead (RFC 8446 section
//! 2.2), and both sides then judge what the other showed in that handshake as if it were shown now: a session is worth no
//! more than the certificates that it began with. A secret serves once and is in memory alone, so who restarts begins anew.
//!
//! The secret comes from a key exchange that a quantum computer does not break, and goes into the keys of what it resumes
//! (section 7.1). The exchange of such a handshake adds forward secrecy and can be a short one, as long as the handshake
//! is not a whole one after all, with that exchange as its only secret: a sidecar closes such a connection.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::StoresServerSessions;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ServerConfig, ServerConnection};
use webpki::KeyUsage;

use crate::CertError;
use crate::verify::{Anchors, ServerVerifier};

/// Settings of a server that lets who comes back go on where it was.
pub struct ResumingServer {
    config: Arc<ServerConfig>,
    anchors: Arc<Anchors>,
}

impl ResumingServer {
    pub(crate) fn new(mut config: ServerConfig, anchors: Arc<Anchors>, sessions: &Arc<Sessions>) -> Self {
        config.session_storage = Arc::clone(sessions) as Arc<dyn StoresServerSessions>;
        // Each serves once, and the handshake that it serves gives the next one.
        config.send_tls13_tickets = 1;
        Self { config: Arc::new(config), anchors }
    }

    /// For the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    /// Whether the client is still believed, if the handshake that is done was a resumed one.
    pub fn check(&self, connection: &ServerConnection, now: SystemTime) -> Result<(), CertError> {
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        match connection.peer_certificates().and_then(<[CertificateDer<'_>]>::split_first) {
            Some((leaf, intermediates)) if is_resumed => {
                self.anchors.identify(leaf, intermediates, unix(now)?, KeyUsage::client_auth()).map(drop)
            }
            // Judged in the handshake, or unknown.
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for ResumingServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResumingServer").field(&self.anchors).finish()
    }
}

/// What a server remembers of its clients: so many sessions, the oldest make room.
pub struct Sessions {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    /// With their place among all that were ever kept.
    by_ticket: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    tickets: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Sessions {
    /// Room for so many.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, kept: Mutex::default() })
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, ticket: Vec<u8>, session: Vec<u8>) -> bool {
        let mut kept = lock(&self.kept);
        let place = kept.next;
        kept.next += 1;
        kept.tickets.insert(place, ticket.clone());
        kept.by_ticket.insert(ticket, (place, session));
        if kept.by_ticket.len() > self.most
            && let Some((_, oldest)) = kept.tickets.pop_first()
        {
            kept.by_ticket.remove(&oldest);
        }
        true
    }

    fn get(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        lock(&self.kept).by_ticket.get(ticket).map(|(_, session)| session.clone())
    }

    fn take(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let mut kept = lock(&self.kept);
        let (place, session) = kept.by_ticket.remove(ticket)?;
        kept.tickets.remove(&place);
        Some(session)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sessions({} of {})", lock(&self.kept).by_ticket.len(), self.most)
    }
}

/// Settings to reach one server again and again. For one address of it: others know nothing of what was agreed there.
pub struct ResumingClient {
    whole: Arc<ClientConfig>,
    brief: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    session: Arc<Session>,
}

/// What was agreed last.
#[derive(Default)]
struct Session {
    agreed: Mutex<Option<(ServerName<'static>, Tls13ClientSessionValue)>>,
    /// It was not known there when it was needed: several answer at this address, or one that forgets.
    was_unknown: AtomicBool,
}

/// One connection, while it is being made.
pub struct Attempt {
    config: Arc<ClientConfig>,
    verifier: Arc<ServerVerifier>,
    session: Arc<Session>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As the first one; resumed where the server likes.
    Whole,
    /// Resumed, or nothing.
    Brief,
}

impl ResumingClient {
    /// Of two settings that differ in the key exchange alone: any handshake's, and that of a resumed one.
    pub(crate) fn new([whole, brief]: [ClientConfig; 2], verifier: Arc<ServerVerifier>) -> Self {
        let session = Arc::new(Session::default());
        let remembering = |mut config: ClientConfig| {
            config.resumption = Resumption::store(Arc::clone(&session) as Arc<dyn ClientSessionStore>);
            Arc::new(config)
        };
        Self { whole: remembering(whole), brief: remembering(brief), verifier, session }
    }

    /// The next connection.
    pub fn attempt(&self) -> Attempt {
        let is_agreed = lock(&self.session.agreed).is_some();
        let (config, kind) = match is_agreed && !self.session.was_unknown.load(Relaxed) {
            true => (&self.brief, Kind::Brief),
            false => (&self.whole, Kind::Whole),
        };
        let (verifier, session) = (Arc::clone(&self.verifier), Arc::clone(&self.session));
        Attempt { config: Arc::clone(config), verifier, session, kind }
    }
}

impl Attempt {
    /// For its handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Whether the connection may be used, now that its handshake is done. [`CertError::NotResumed`]: another attempt
    /// is worth while, which will be a whole handshake.
    pub fn check(&self, connection: &ClientConnection, now: SystemTime) -> Result<(), CertError> {
        if connection.handshake_kind() == Some(HandshakeKind::Resumed) {
            let shown = connection.peer_certificates().and_then(<[CertificateDer<'_>]>::split_first);
            let (leaf, intermediates) = shown.ok_or(CertError::EmptyChain)?;
            return self.verifier.check(leaf, intermediates, unix(now)?).inspect_err(|_| {
                // What goes on from here would show the same again: the next attempt is whole, and shows what is there now.
                *lock(&self.session.agreed) = None;
            });
        }
        if self.kind == Kind::Brief {
            self.session.was_unknown.store(true, Relaxed);
            *lock(&self.session.agreed) = None;
            return Err(CertError::NotResumed);
        }
        Ok(())
    }
}

impl fmt::Debug for ResumingClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ResumingClient").field(&self.verifier).finish()
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Attempt").field(&self.verifier).finish()
    }
}

impl ClientSessionStore for Session {
    // The settings say which key exchange begins.
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    // There is no TLS 1.2 here.
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, server: ServerName<'static>, session: Tls13ClientSessionValue) {
        *lock(&self.agreed) = Some((server, session));
    }

    fn take_tls13_ticket(&self, server: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        lock(&self.agreed).take_if(|(of, _)| of == server).map(|(_, session)| session)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

fn unix(now: SystemTime) -> Result<UnixTime, CertError> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| CertError::Time)?;
    Ok(UnixTime::since_unix_epoch(since))
}

/// Nothing panics while it holds one of these; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
