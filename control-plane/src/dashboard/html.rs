//! What all pages are made of. Whatever comes from outside goes through [`Escaped`].

use std::fmt::{self, Display, Write};
use std::time::Duration;

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
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
}

/// The pages that every page leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Overview,
    Traces,
    Sidecars,
    Configuration,
    Explain,
}

impl Place {
    const ALL: [(Self, &'static str, &'static str); 5] = [
        (Self::Overview, "/", "Services"),
        (Self::Traces, "/traces", "Traces"),
        (Self::Sidecars, "/sidecars", "Sidecars"),
        (Self::Configuration, "/configuration", "Configuration"),
        (Self::Explain, "/explain", "Explain"),
    ];
}

/// A page that is being written.
pub(super) struct Page {
    title: String,
    place: Place,
    revision: u64,
    reloads: bool,
    body: String,
}

impl Page {
    pub(super) fn new(title: impl Into<String>, place: Place, revision: u64) -> Self {
        let title = title.into();
        let body = format!("<h1>{}</h1>", Escaped(&title));
        Self { title, place, revision, reloads: false, body }
    }

    /// Asked for again every few seconds.
    pub(super) fn reloading(mut self) -> Self {
        self.reloads = true;
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
        self.push("<div class=\"wide\"><table><thead><tr>");
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
        let links = Place::ALL.map(|(place, path, name)| {
            let current = if place == self.place { " aria-current=\"page\"" } else { "" };
            format!("<a href=\"{path}\"{current}>{name}</a>")
        });
        let refresh = if self.reloads { "<meta http-equiv=\"refresh\" content=\"5\">" } else { "" };
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             {refresh}<title>{} - Weft</title><link rel=\"stylesheet\" href=\"/style.css\"></head><body><header><nav aria-label=\"Pages\"><b>Weft</b>{}\
             <small>revision {}</small></nav></header><main>{}</main></body></html>",
            Escaped(&self.title),
            links.concat(),
            self.revision,
            self.body
        )
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

    pub(super) fn value(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).unwrap_or_default()
    }
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
        let mut page = Page::new("<script>alert('x')</script>", Place::Traces, 1);
        page.heading("<b>").note("\"&").push(field("a", "b", "\"><script>", "<"));
        let page = page.finish();
        assert!(!page.contains("<script") && !page.contains("<b></h2>"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)") && page.contains("&quot;&amp;"), "{page}");
        assert!(page.contains("<a href=\"/traces\" aria-current=\"page\">"), "{page}");
        assert_eq!(service_link("a\"b", "<x>").matches(['<', '"']).count(), 6);
        assert_eq!(encoded("a/b c\"?"), "a%2Fb%20c%22%3F");
    }

    #[test]
    fn a_form_says_each_name_once() {
        let query = Query::of(Some("a=1&a=&b=x%20y+z&a=2&c"));
        assert_eq!(["a", "b", "c", "d"].map(|name| query.value(name)), ["2", "x y z", "", ""]);
        assert_eq!(Query::of(None).value("a"), "");
    }
}
