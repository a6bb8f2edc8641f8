//! Requests that stay with one endpoint: by a cookie whose hash decides, or by a session that names it. What is decided,
//! [`weft_core::session`] decides.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderName;
use http::header::COOKIE;
use weft_core::balance::hash;
use weft_core::model::{BackendTarget, HashCookie, SessionKey, SessionPersistence};
use weft_core::route::Rule;
use weft_core::session::{self, Session, Told};

use crate::http::head::{Fields, Value};

/// What decides on the endpoint where equal requests go to the same one.
#[derive(Debug)]
pub struct Key {
    /// The hash of what makes them equal.
    pub hash: u64,
    /// What the caller is told, so that its next requests are equal to this one.
    pub told: Option<Told>,
}

/// What keeps a request with an endpoint.
#[derive(Debug, Default)]
pub struct Affinity {
    /// What the caller is told, so that its next requests go there as well.
    told: Option<Told>,
    staying: Option<Staying>,
}

/// A request under a rule that keeps sessions.
#[derive(Debug)]
pub struct Staying {
    rule: Arc<Rule>,
    /// The session that it brought, where that goes on.
    before: Option<Session>,
    /// The backend that it goes to.
    backend: u64,
}

impl Affinity {
    /// The endpoint that it is to go to, where that exists.
    pub fn endpoint(&self) -> Option<u64> {
        let staying = self.staying.as_ref()?;
        staying.before.filter(|before| before.backend == staying.backend).map(|before| before.endpoint)
    }

    /// It falls under a rule that keeps sessions.
    pub fn stays(&mut self, staying: Staying) {
        self.staying = Some(staying);
    }

    /// The caller is to be told.
    pub fn tells(&mut self, told: Told) {
        self.told = Some(told);
    }

    /// Tells the caller what to bring back, in the fields of a response of this endpoint.
    pub fn amend_response(&self, endpoint: u64, fields: &mut impl Fields) {
        let staying = self.staying.as_ref().and_then(|staying| staying.tell(endpoint));
        for (name, value) in self.told.iter().chain(&staying) {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                fields.append(&name, Value::Once(value.as_bytes()));
            }
        }
    }
}

impl Staying {
    /// What a request brings to a rule; none where the rule keeps no sessions.
    pub fn of(rule: &Arc<Rule>, fields: &impl Fields) -> Option<Self> {
        let settings = rule.policy.session.as_ref()?;
        let before =
            brought(settings, &rule.label, fields).and_then(|session| session.going_on(settings, now()));
        Some(Self { rule: Arc::clone(rule), before, backend: 0 })
    }

    /// The backend that it is to go to, where that exists.
    pub fn backend(&self) -> Option<u64> {
        self.before.map(|before| before.backend)
    }

    /// It goes to this backend.
    pub fn goes_to(self, backend: u64) -> Self {
        Self { backend, ..self }
    }

    fn tell(&self, endpoint: u64) -> Option<Told> {
        let settings = self.rule.policy.session.as_ref()?;
        let default = session::default_name(settings.key, &self.rule.label);
        Session::tell(settings, &default, self.before, (self.backend, endpoint), now())
    }
}

/// What names a backend in a session.
pub fn backend_id(target: &BackendTarget) -> u64 {
    match target {
        BackendTarget::Service(name, port) => hash(format!("{name}:{port}").as_bytes()),
        BackendTarget::OtherKind | BackendTarget::NotPermitted => 0,
    }
}

fn brought(settings: &SessionPersistence, rule: &str, fields: &impl Fields) -> Option<Session> {
    let default = session::default_name(settings.key, rule);
    let name = settings.name.as_deref().unwrap_or(&default);
    match settings.key {
        SessionKey::Cookie(_) => Session::read(session::cookie(fields.all(&COOKIE), name)?),
        SessionKey::Header => Session::read(fields.first(&name.parse().ok()?)?),
    }
}

/// The key of a request by its cookie. One that has none is given one.
pub fn by_cookie(cookie: &HashCookie, fields: &impl Fields, rng: &mut fastrand::Rng) -> Key {
    match session::cookie(fields.all(&COOKIE), &cookie.name) {
        Some(value) => Key { hash: hash(value), told: None },
        None => {
            let value = format!("{:032x}", rng.u128(..));
            let text = session::cookie_text(&cookie.name, &value, &cookie.path, cookie.ttl);
            Key { hash: hash(value.as_bytes()), told: Some(("set-cookie".to_owned(), text)) }
        }
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
