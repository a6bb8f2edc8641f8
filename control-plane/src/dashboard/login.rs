//! Who may see how the mesh is configured: who showed an administrator's token once, for some hours, by a cookie that says
//! nothing, and as long as the token is not taken back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use http::header::{COOKIE, HeaderMap};

use super::html::{Escaped, Page, Place};
use crate::tokens::Administrator;

const LASTS: Duration = Duration::from_hours(12);
/// Sessions at once; one more ends that which would end first.
const MOST: usize = 256;
const COOKIE_NAME: &str = "weft-session";

/// The sessions of people who have logged in.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

#[derive(Debug)]
struct Session {
    ends: Instant,
    of: Administrator,
}

impl Sessions {
    /// Begins a session; its cookie. None where the machine has no randomness.
    pub(super) fn begin(&self, of: Administrator, now: Instant) -> Option<String> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).ok()?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= MOST
            && let Some(first) =
                sessions.iter().min_by_key(|(_, session)| session.ends).map(|(id, _)| id.clone())
        {
            sessions.remove(&first);
        }
        let cookie =
            format!("{COOKIE_NAME}={id}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict", LASTS.as_secs());
        sessions.insert(id, Session { ends: now + LASTS, of });
        Some(cookie)
    }

    /// Whose session a request is of.
    pub(super) fn holder(&self, headers: &HeaderMap, now: Instant) -> Option<Administrator> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut ids = cookies
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='));
        let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ids.find_map(|id| sessions.get(id).filter(|session| session.ends > now))
            .map(|session| session.of.clone())
    }
}

/// The form. `then` is the page that was asked for.
pub(super) fn page(then: &str, refused: Option<&str>, revision: u64) -> String {
    let mut page = Page::new("Log in", Place::Configuration, revision);
    if let Some(reason) = refused {
        page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason)));
    }
    page.push(format_args!(
        "<p>How the mesh is configured is shown to its administrators: by <code>DATA-DIR/admin.token</code>, or a token of <code>weft token create --admin viewer</code>.</p>\
         <form method=\"post\" action=\"/login\"><input type=\"hidden\" name=\"then\" value=\"{}\">\
         <label>Token<input type=\"password\" name=\"token\" autocomplete=\"off\" required autofocus></label><button>Log in</button></form>",
        Escaped(then)
    ));
    page.finish()
}

/// A page of ours that a form names; anything else is the first one, lest a link lead elsewhere.
pub(super) fn ours(then: &str) -> &str {
    let is_ours = then.starts_with('/')
        && !then.starts_with("//")
        && then.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_ours { then } else { "/" }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn somebody() -> Administrator {
        Administrator { role: crate::store::Role::Viewer, token: None }
    }

    fn headers(cookie: &str) -> HeaderMap {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(cookie).expect("a cookie"))])
    }

    #[test]
    fn a_session_holds_for_its_cookie_and_its_time() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let cookie = sessions.begin(somebody(), now).expect("randomness");
        let id = cookie.split(';').next().expect("a pair").to_owned();
        assert!(cookie.contains("HttpOnly; SameSite=Strict"), "{cookie}");
        assert!(sessions.holder(&headers(&format!("a=b; {id}")), now).is_some());
        assert!(sessions.holder(&headers(&format!("{id}0")), now).is_none());
        assert!(sessions.holder(&headers("weft-session="), now).is_none());
        assert!(sessions.holder(&HeaderMap::new(), now).is_none());
        assert!(sessions.holder(&headers(&id), now + LASTS).is_none());
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_makes_room() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(somebody(), now).expect("randomness");
        for later in 1..=MOST as u64 {
            sessions.begin(somebody(), now + Duration::from_millis(later)).expect("randomness");
        }
        let first = first.split(';').next().expect("a pair");
        assert!(sessions.holder(&headers(first), now).is_none());
        assert_eq!(sessions.0.lock().expect("no panic").len(), MOST);
    }

    #[test]
    fn a_login_leads_to_a_page_of_ours() {
        for (asked, leads) in [
            ("/explain?to=a", "/explain?to=a"),
            ("//evil.example", "/"),
            ("https://evil.example", "/"),
            ("/\\evil.example", "/"),
            ("/a\r\nset-cookie: x", "/"),
            ("", "/"),
        ] {
            assert_eq!(ours(asked), leads, "{asked}");
        }
    }
}
