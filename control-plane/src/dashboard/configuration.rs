//! The revisions of the configuration, and what each changed.

use super::html::{Escaped, Page, Place};
use crate::configuration::Changed;
use crate::report::rfc3339;
use crate::store::Revision;

pub(super) fn history(revisions: &[Revision], documents: &[(String, String)], revision: u64) -> String {
    let mut page = Page::new("Configuration", Place::Configuration, revision);
    page.table(
        "Revisions, newest first",
        &["#Revision", "Time", "Author", "Source", "What changed"],
        revisions.iter().map(|revision| {
            format!(
                "<tr><td class=\"n\"><a href=\"/configuration/{0}\">{0}</a></td><td>{1}</td><td>{2}</td><td>{3}</td><td>{4}</td></tr>",
                revision.number,
                Escaped(rfc3339(revision.time)),
                Escaped(&revision.author),
                revision.source.as_str(),
                Escaped(&revision.summary),
            )
        }),
        "Nothing was configured yet: `weft apply -f FILE`.",
    );
    page.table(
        "Documents in force",
        &["Document", "Stands in"],
        documents.iter().map(|(key, place)| {
            format!("<tr><td>{}</td><td><code>{}</code></td></tr>", Escaped(key), Escaped(place))
        }),
        "None.",
    );
    page.finish()
}

/// What a revision changed, document by document.
pub(super) fn changes(number: u64, changes: &[Changed], revision: u64) -> String {
    let mut page = Page::new(format!("Revision {number}"), Place::Configuration, revision);
    page.push(format_args!("<p>Back to it: <code>weft rollback {number}</code></p>"));
    if changes.is_empty() {
        page.note("It changed nothing that the one before it did not say.");
    }
    for change in changes {
        page.heading(&format!("{} {}", change.action.as_str(), change.key));
        page.push("<pre class=\"diff\">");
        for line in change.diff.lines() {
            let class = match line.as_bytes().first() {
                Some(b'+') => "add",
                Some(b'-') => "del",
                Some(b'@') => "at",
                _ => "",
            };
            page.push(format_args!("<span class=\"{class}\">{}</span>\n", Escaped(line)));
        }
        page.push("</pre>");
    }
    page.finish()
}
