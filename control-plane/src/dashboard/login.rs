//! Who may see how the mesh is configured, and change it: who showed an administrator's token once, for some hours, by a cookie that
//! says nothing, and as long as the token is not taken back.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{COOKIE, HeaderMap};

use super::html::{Escaped, Frame, Page, Place, Query};
use crate::store::Role;
use crate::tokens::{Administrator, hex, random};

const LASTS: Duration = Duration::from_hours(12);
/// Sessions at once; one more ends that which would end first.
const MOST: usize = 256;
const COOKIE_NAME: &str = "weft-session";

/// The name of the field by which a form proves that it is one of ours (CSRF).
const PROOF: &str = "proof";

/// The sessions of people who have logged in, by what their cookies say.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<String, Session>>);

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Session {
    ends: Instant,
    pub(super) of: Administrator,
    /// What a form must say to change something: another site can send its own form with our cookie, but cannot read this.
    proof: String,
}

impl Sessions {
    /// Begins a session; its cookie. None where the machine has no randomness.
    pub(super) fn begin(&self, of: Administrator, now: Instant) -> Option<String> {
        let (id, proof) = (hex(&random::<32>().ok()?), hex(&random::<32>().ok()?));
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.ends > now);
        if sessions.len() >= MOST
            && let Some(first) =
                sessions.iter().min_by_key(|(_, session)| session.ends).map(|(id, _)| id.clone())
        {
            sessions.remove(&first);
        }
        let cookie =
            format!("{COOKIE_NAME}={id}; Path=/; Max-Age={}; HttpOnly; SameSite=Strict", LASTS.as_secs());
        sessions.insert(id, Session { ends: now + LASTS, of, proof });
        Some(cookie)
    }

    /// The session that a request is of.
    pub(super) fn of(&self, headers: &HeaderMap, now: Instant) -> Option<Session> {
        let sessions = self.lock();
        ids(headers).find_map(|id| sessions.get(id).filter(|session| session.ends > now).cloned())
    }

    /// Ends the session that a request is of.
    pub(super) fn end(&self, headers: &HeaderMap) {
        let mut sessions = self.lock();
        ids(headers).for_each(|id| drop(sessions.remove(id)));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Whether a form that was sent is one that we gave to this session.
    pub(super) fn gave(&self, form: &Query) -> bool {
        verify_slices_are_equal(form.value(PROOF).as_bytes(), self.proof.as_bytes()).is_ok()
    }

    /// The field of a form that proves it.
    pub(super) fn proof_field(&self) -> String {
        format!("<input type=\"hidden\" name=\"{PROOF}\" value=\"{}\">", self.proof)
    }

    /// Whether it may change something.
    pub(super) fn operates(&self) -> bool {
        self.of.role == Role::Operator
    }
}

/// What the cookies of a request say of sessions.
fn ids(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

/// The form. `then` is the page that was asked for.
pub(super) fn page(then: &str, refused: Option<&str>, frame: &Frame) -> String {
    let mut page = Page::new("Log in", Place::Policies, frame);
    if let Some(reason) = refused {
        page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason)));
    }
    page.push(format_args!(
        "<p>How the mesh is configured, and what passes through it, is shown to its administrators: by <code>DATA-DIR/admin.token</code>, or a token of <code>weft token create --admin viewer</code>.</p>\
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
        Administrator { role: Role::Viewer, token: None }
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
        assert!(sessions.of(&headers(&format!("a=b; {id}")), now).is_some());
        assert!(sessions.of(&headers(&format!("{id}0")), now).is_none());
        assert!(sessions.of(&headers("weft-session="), now).is_none());
        assert!(sessions.of(&HeaderMap::new(), now).is_none());
        assert!(sessions.of(&headers(&id), now + LASTS).is_none());
    }

    #[test]
    fn a_form_proves_that_its_own_session_got_it_and_ends_with_it() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let begin = || {
            let cookie = sessions.begin(somebody(), now).expect("randomness");
            headers(cookie.split(';').next().expect("a pair"))
        };
        let (mine, other) = (begin(), begin());
        let session = sessions.of(&mine, now).expect("a session");
        let field = session.proof_field();
        let proof = field.split("value=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a proof");
        let form = |text: &str| Query::of(Some(text));
        assert!(session.gave(&form(&format!("proof={proof}"))));
        for wrong in ["", "proof=", &format!("proof={proof}0"), &format!("proof=0{proof}")] {
            assert!(!session.gave(&form(wrong)), "{wrong}");
        }
        assert!(!sessions.of(&other, now).expect("a session").gave(&form(&format!("proof={proof}"))));
        sessions.end(&mine);
        assert!(sessions.of(&mine, now).is_none() && sessions.of(&other, now).is_some());
    }

    #[test]
    fn sessions_are_bounded_and_the_oldest_makes_room() {
        let (sessions, now) = (Sessions::default(), Instant::now());
        let first = sessions.begin(somebody(), now).expect("randomness");
        for later in 1..=MOST as u64 {
            sessions.begin(somebody(), now + Duration::from_millis(later)).expect("randomness");
        }
        let first = first.split(';').next().expect("a pair");
        assert!(sessions.of(&headers(first), now).is_none());
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
