//! What all pages are made of. Whatever comes from outside goes through [`Escaped`].

use std::fmt::{self, Display, Write};
use std::time::Duration;

use super::login::Session;
use crate::together::Missing;

/// Text that is safe in an element and in a quoted attribute.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    _ => self.0.write_char(c),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// Text as a part of a URL's path or query.
pub(super) fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}

/// A time of a request.
pub(super) struct Millis(pub(super) Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ms(self.0.as_secs_f64() * 1000.0).fmt(f)
    }
}

/// A time in milliseconds.
pub(super) struct Ms(pub(super) f64);

impl Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms >= 10_000.0 => write!(f, "{:.1} s", ms / 1000.0),
            ms if ms >= 100.0 => write!(f, "{ms:.0} ms"),
            ms if ms >= 1.0 || ms <= 0.0 => write!(f, "{ms:.1} ms"),
            ms => write!(f, "{ms:.2} ms"),
        }
    }
}

/// A share from 0 to 1, in percent.
pub(super) struct Percent(pub(super) f64);

impl Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is not all must not be rounded up to it.
        let percent = self.0 * 100.0;
        match percent {
            100.0.. => f.write_str("100 %"),
            99.9.. => write!(f, "{:.2} %", (percent * 100.0).floor() / 100.0),
            _ => write!(f, "{percent:.1} %"),
        }
    }
}

/// Requests in a second.
pub(super) struct Rate(pub(super) f64);

impl Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            rate if rate >= 100.0 => write!(f, "{rate:.0}/s"),
            rate if rate >= 1.0 || rate <= 0.0 => write!(f, "{rate:.1}/s"),
            rate => write!(f, "{rate:.2}/s"),
        }
    }
}

/// How good a share of successes is, as a class.
pub(super) fn grade(success: f64) -> &'static str {
    match success {
        0.999.. => "good",
        0.95.. => "warn",
        _ => "bad",
    }
}

/// The pages that every page leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Map,
    Traces,
    Tap,
    Policies,
    Identities,
    Sidecars,
    Explain,
}

impl Place {
    const ALL: [(Self, &'static str, &'static str); 7] = [
        (Self::Map, "/", "Map"),
        (Self::Traces, "/traces", "Traces"),
        (Self::Tap, "/tap", "Tap"),
        (Self::Policies, "/policies", "Policies"),
        (Self::Identities, "/identities", "Identities"),
        (Self::Sidecars, "/sidecars", "Sidecars"),
        (Self::Explain, "/explain", "Explain"),
    ];
}

/// What is around every page's matter.
#[derive(Debug, Clone, Default)]
pub(super) struct Frame {
    /// The configuration in force.
    pub(super) revision: u64,
    /// Who looks, where that has logged in.
    pub(super) session: Option<Session>,
    /// Which control planes did not answer; empty: all did.
    pub(super) missing: String,
}

impl Frame {
    /// The same around what those did not tell of.
    pub(super) fn lacking(&self, missing: Missing) -> Self {
        Self { missing: missing.words(), ..self.clone() }
    }
}

/// A page that is being written.
pub(super) struct Page {
    title: String,
    place: Place,
    frame: Frame,
    live: bool,
    body: String,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, place: Place, frame: &Frame) -> Self {
        let title = title.into();
        let body = format!("<h1>{}</h1>", Escaped(&title));
        Self { title, place, frame: frame.clone(), live: false, body }
    }

    /// Asked for again every few seconds: by the script, which leaves the reader where it is, or by the browser itself.
    pub(super) fn live(mut self) -> Self {
        self.live = true;
        self
    }

    /// Adds HTML.
    pub(super) fn push(&mut self, html: impl Display) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = write!(self.body, "{html}");
        self
    }

    pub(super) fn heading(&mut self, text: &str) -> &mut Self {
        self.push(format_args!("<h2>{}</h2>", Escaped(text)))
    }

    /// A paragraph beside the matter.
    pub(super) fn note(&mut self, text: impl Display) -> &mut Self {
        self.push(format_args!("<p class=\"dim\">{}</p>", Escaped(text)))
    }

    /// A table below a heading; columns whose heading begins with `#` hold numbers.
    pub(super) fn table(
        &mut self,
        heading: &str,
        columns: &[&str],
        rows: impl ExactSizeIterator<Item = String>,
        none: &str,
    ) -> &mut Self {
        self.heading(heading);
        if rows.len() == 0 {
            return self.note(none);
        }
        // What scrolls sideways can be reached by keyboard too.
        self.push(format_args!(
            "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table><thead><tr>",
            Escaped(heading)
        ));
        for column in columns {
            match column.strip_prefix('#') {
                Some(number) => self.push(format_args!("<th class=\"n\" scope=\"col\">{number}</th>")),
                None => self.push(format_args!("<th scope=\"col\">{column}</th>")),
            };
        }
        self.push("</tr></thead><tbody>");
        rows.for_each(|row| self.body.push_str(&row));
        self.push("</tbody></table></div>")
    }

    pub(super) fn finish(&self) -> String {
        format!("{}</main></body></html>", self.unfinished())
    }

    /// The page so far, where more comes later.
    pub(super) fn unfinished(&self) -> String {
        let links = Place::ALL.map(|(place, path, name)| {
            let current = if place == self.place { " aria-current=\"page\"" } else { "" };
            format!("<a href=\"{path}\"{current}>{name}</a>")
        });
        let (refresh, live) = match self.live {
            true => (
                "<script src=\"/live.js\" defer></script><noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>",
                " data-live",
            ),
            false => ("", ""),
        };
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>{} - Weft</title><link rel=\"icon\" href=\"/icon.svg\" type=\"image/svg+xml\"><link rel=\"stylesheet\" href=\"/style.css\">{refresh}</head>\
             <body><a class=\"skip\" href=\"#main\">To the content</a><header><nav aria-label=\"Pages\"><b>Weft</b>{}</nav>\
             <div class=\"who\"><small>revision {}</small>{}</div></header><main id=\"main\" tabindex=\"-1\"{live}>{}{}",
            Escaped(&self.title),
            links.concat(),
            self.frame.revision,
            self.who(),
            self.missing(),
            self.body
        )
    }

    fn missing(&self) -> String {
        match self.frame.missing.as_str() {
            "" => String::new(),
            missing => format!("<p class=\"warn\" role=\"status\">{}.</p>", Escaped(missing)),
        }
    }

    fn who(&self) -> String {
        match &self.frame.session {
            Some(session) => format!(
                "<form method=\"post\" action=\"/logout\">{}<small>{}</small><button class=\"quiet\">Log out</button></form>",
                session.proof_field(),
                session.of.role.as_str()
            ),
            None => "<a href=\"/login\">Log in</a>".to_owned(),
        }
    }
}

/// A link to a service's page.
pub(super) fn service_link(namespace: &str, name: &str) -> String {
    format!(
        "<a href=\"/services/{}/{}\">{}</a><small>.{}</small>",
        encoded(namespace),
        encoded(name),
        Escaped(name),
        Escaped(namespace)
    )
}

/// What a form sent: the last value of each name, and none for what was left empty.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(query: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().filter(|(_, value)| !value.is_empty()).collect())
    }

    /// All values of a name.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn value(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
}

/// The row of links that choose one of several.
pub(super) fn choice(label: &str, links: impl Iterator<Item = (String, &'static str, bool)>) -> String {
    let links = links.map(|(to, name, current)| {
        let current = if current { " aria-current=\"true\"" } else { "" };
        format!("<a href=\"{}\"{current}>{name}</a>", Escaped(to))
    });
    format!("<nav class=\"choice\" aria-label=\"{label}\">{}</nav>", links.collect::<String>())
}

/// A field of a form, with what it holds.
pub(super) fn field(label: &str, name: &str, value: &str, example: &str) -> String {
    format!(
        "<label>{label}<input name=\"{name}\" value=\"{}\" placeholder=\"{}\" autocomplete=\"off\" spellcheck=\"false\"></label>",
        Escaped(value),
        Escaped(example)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let mut page = Page::new("<script>alert('x')</script>", Place::Traces, &Frame::default());
        page.heading("<b>").note("\"&").push(field("a", "b", "\"><script>", "<"));
        let page = page.finish();
        assert!(!page.contains("<script") && !page.contains("<b></h2>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)") && page.contains("&quot;&amp;"), "{page}");
        assert!(page.contains("<a href=\"/traces\" aria-current=\"page\">"), "{page}");
        assert_eq!(service_link("a\"b", "<x>").matches(['<', '"']).count(), 6);
        assert_eq!(encoded("a/b c\"?"), "a%2Fb%20c%22%3F");
    }

    #[test]
    fn a_page_that_lacks_something_says_so() {
        let frame = Frame { missing: "1 of 3 <b>".into(), ..Frame::default() };
        let page = Page::new("Traces", Place::Traces, &frame).finish();
        assert!(page.contains("<p class=\"warn\" role=\"status\">1 of 3 &lt;b&gt;.</p>"), "{page}");
        assert!(!Page::new("Traces", Place::Traces, &Frame::default()).finish().contains("role=\"status\""));
    }

    #[test]
    fn numbers_are_short_and_never_better_than_they_are() {
        let percents = [1.0, 0.99999, 0.9991, 0.5, 0.0].map(|share| Percent(share).to_string());
        assert_eq!(percents, ["100 %", "99.99 %", "99.91 %", "50.0 %", "0.0 %"]);
        let rates = [0.0, 0.017, 1.0, 49.96, 1234.5].map(|rate| Rate(rate).to_string());
        assert_eq!(rates, ["0.0/s", "0.02/s", "1.0/s", "50.0/s", "1234/s"]);
        assert_eq!([1.0, 0.99, 0.5].map(grade), ["good", "warn", "bad"]);
    }

    #[test]
    fn a_form_says_each_name_once() {
        let query = Query::of(Some("a=1&a=&b=x%20y+z&a=2&c"));
        assert_eq!(["a", "b", "c", "d"].map(|name| query.value(name)), ["2", "x y z", "", ""]);
        assert_eq!(Query::of(None).value("a"), "");
    }
}
