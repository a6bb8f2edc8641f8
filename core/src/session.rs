//! Sessions: requests that stay with one endpoint because they bring back what they were told (GEP-1619).
//!
//! What they bring names a backend and an endpoint by their hashes and says since when; nothing of it is secret, and
//! nothing is believed but that the caller would like to go there: an endpoint that is not behind the service cannot be
//! named.

use std::time::Duration;

use crate::balance::hash;
use crate::model::{CookieLifetime, SessionKey, SessionPersistence};

/// A session that goes on is said anew when so much time has passed, where it ends without use.
const REFRESH: u32 = 1;

/// Hexadecimal digits of a session's text.
const DIGITS: usize = 16 + 16 + 8 + 8;

/// A session, as its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session {
    /// The hash of the backend's name.
    pub backend: u64,
    /// The hash of the endpoint's.
    pub endpoint: u64,
    /// When it began, in seconds of Unix time.
    begun: u32,
    /// When it was last used, as far as it was said.
    used: u32,
}

/// A field of a response that tells the caller what to bring back: its name and its value.
pub type Told = (String, String);

impl Session {
    /// Reads a session; none where the text is none.
    pub fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok().filter(|text| text.len() == DIGITS)?;
        if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let (backend, rest) = text.split_at_checked(16)?;
        let (endpoint, rest) = rest.split_at_checked(16)?;
        let (begun, used) = rest.split_at_checked(8)?;
        Some(Self {
            backend: u64::from_str_radix(backend, 16).ok()?,
            endpoint: u64::from_str_radix(endpoint, 16).ok()?,
            begun: u32::from_str_radix(begun, 16).ok()?,
            used: u32::from_str_radix(used, 16).ok()?,
        })
    }

    fn write(&self) -> String {
        let Self { backend, endpoint, begun, used } = self;
        format!("{backend:016x}{endpoint:016x}{begun:08x}{used:08x}")
    }

    /// The same session, where it has not ended at `now` (Unix time).
    pub fn going_on(self, settings: &SessionPersistence, now: Duration) -> Option<Self> {
        let ends = |since: u32, after: Option<Duration>| {
            // What is said to begin later than now began at no time.
            let age = u32::try_from(now.as_secs()).ok()?.checked_sub(since)?;
            after.is_none_or(|after| Duration::from_secs(age.into()) < after).then_some(())
        };
        ends(self.begun, settings.absolute).and_then(|()| ends(self.used, settings.idle)).map(|()| self)
    }

    /// What a caller is told whose request was answered by this endpoint at `now`; nothing where it knows. `before` is
    /// the session that it brought.
    pub fn tell(
        settings: &SessionPersistence,
        default_name: &str,
        before: Option<Self>,
        to: (u64, u64),
        now: Duration,
    ) -> Option<Told> {
        let (backend, endpoint) = to;
        let now = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        let same = before.filter(|before| (before.backend, before.endpoint) == to);
        let session = match same {
            Some(same) if settings.idle.is_none() || now.saturating_sub(same.used) < REFRESH => return None,
            Some(same) => Self { used: now, ..same },
            None => Self { backend, endpoint, begun: now, used: now },
        };
        let name = settings.name.as_deref().unwrap_or(default_name);
        let value = session.write();
        Some(match settings.key {
            SessionKey::Header => (name.to_ascii_lowercase(), value),
            SessionKey::Cookie(lifetime) => {
                let left = settings.absolute.map(|all| {
                    all.saturating_sub(Duration::from_secs(now.saturating_sub(session.begun).into()))
                });
                let max_age = left.filter(|_| lifetime == CookieLifetime::Permanent);
                ("set-cookie".to_owned(), cookie_text(name, &value, "/", max_age))
            }
        })
    }
}

/// How sessions of a rule are named where nobody names them: differently for each rule, for they are not the same.
pub fn default_name(key: SessionKey, rule: &str) -> String {
    match key {
        SessionKey::Cookie(_) => format!("weft-session-{:08x}", hash(rule.as_bytes()) >> 32),
        SessionKey::Header => "x-weft-session".to_owned(),
    }
}

/// The value of a cookie among what `Cookie` fields say (RFC 6265 section 4.2.1): the first of that name.
pub fn cookie<'a>(fields: impl Iterator<Item = &'a [u8]>, name: &str) -> Option<&'a [u8]> {
    let mut pairs = fields.flat_map(|field| field.split(|byte| *byte == b';'));
    pairs.find_map(|pair| {
        let (known, value) = pair.trim_ascii().split_at_checked(name.len())?;
        let value = value.strip_prefix(b"=").filter(|_| known == name.as_bytes())?;
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        Some(quoted.unwrap_or(value))
    })
}

/// A `Set-Cookie` field's value: for us alone, not for scripts, and not sent along from other sites' forms.
pub fn cookie_text(name: &str, value: &str, path: &str, max_age: Option<Duration>) -> String {
    let lasts = max_age.map(|age| format!("; Max-Age={}", age.as_secs())).unwrap_or_default();
    format!("{name}={value}; Path={path}{lasts}; HttpOnly; SameSite=Lax")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn settings(key: SessionKey, absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
        let seconds = |seconds: Option<u64>| seconds.map(Duration::from_secs);
        SessionPersistence { name: None, key, absolute: seconds(absolute), idle: seconds(idle) }
    }

    fn session(begun: u32, used: u32) -> Session {
        Session { backend: 7, endpoint: 9, begun, used }
    }

    #[test]
    fn a_session_ends_by_its_age_and_by_disuse() {
        let header = |absolute, idle| settings(SessionKey::Header, absolute, idle);
        let goes_on =
            |session: Session, settings: &SessionPersistence| session.going_on(settings, NOW).is_some();
        assert!(goes_on(session(1, 1), &header(None, None)));
        assert!(goes_on(session(999_910, 999_910), &header(Some(100), None)));
        assert!(!goes_on(session(999_900, 999_999), &header(Some(100), None)));
        assert!(!goes_on(session(1, 999_980), &header(None, Some(20))));
        assert!(goes_on(session(1, 999_981), &header(None, Some(20))));
        assert!(!goes_on(session(1_000_001, 1), &header(None, None)), "it has not begun yet");
    }

    #[test]
    fn callers_are_told_what_they_do_not_know() {
        let session_cookie = settings(SessionKey::Cookie(CookieLifetime::Session), None, None);
        let tell = |settings: &SessionPersistence, before| Session::tell(settings, "s", before, (7, 9), NOW);
        let (name, value) = tell(&session_cookie, None).unwrap();
        let text = "00000000000000070000000000000009000f4240000f4240";
        assert_eq!(name, "set-cookie");
        assert_eq!(value, format!("s={text}; Path=/; HttpOnly; SameSite=Lax"));
        assert_eq!(tell(&session_cookie, Session::read(text.as_bytes())), None);
        // Another endpoint is another session.
        let moved = Session { endpoint: 8, ..session(5, 5) };
        assert_eq!(tell(&session_cookie, Some(moved)).unwrap().1, value);
        let permanent = settings(SessionKey::Cookie(CookieLifetime::Permanent), Some(100), Some(50));
        assert!(tell(&permanent, None).unwrap().1.contains("; Max-Age=100; "));
        let old = tell(&permanent, Some(session(999_960, 999_970))).unwrap().1;
        assert!(old.contains("000f4218000f4240; Path=/; Max-Age=60; "), "{old}");
        let header = settings(SessionKey::Header, None, None);
        assert_eq!(tell(&header, None), Some(("s".to_owned(), text.to_owned())));
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let find = |fields: &[&str], name: &str| {
            let fields = fields.iter().map(|field| field.as_bytes());
            cookie(fields, name).map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        assert_eq!(find(&["a=1; user=alice; b=2"], "user").as_deref(), Some("alice"));
        assert_eq!(find(&["a=1", "user=\"bob\";user=eve"], "user").as_deref(), Some("bob"));
        assert_eq!(find(&["xuser=1; user2=3; user; =user"], "user"), None);
        assert_eq!(find(&["user="], "user").as_deref(), Some(""));
    }

    #[test]
    fn names_differ_from_rule_to_rule() {
        let cookie = SessionKey::Cookie(CookieLifetime::Session);
        assert_ne!(default_name(cookie, "default/a"), default_name(cookie, "default/b"));
        assert_eq!(default_name(SessionKey::Header, "default/a"), "x-weft-session");
    }

    proptest! {
        #[test]
        fn anything_may_be_brought(text in prop::collection::vec(any::<u8>(), 0..80), name in "[a-z]{0,9}") {
            if let Some(session) = Session::read(&text) {
                prop_assert_eq!(session.write().to_ascii_lowercase().into_bytes(), text.to_ascii_lowercase());
            }
            let _ = cookie([text.as_slice()].into_iter(), &name);
        }
    }
}
