//! The documents in force, their revisions, what each changed, and the way back to one, which an operator alone can go.

use weft_core::manifest::{Resource, to_yaml};

use super::html::{Escaped, Frame, Page, Place, encoded};
use crate::configuration::{Changed, Home};
use crate::report::rfc3339;
use crate::store::Revision;

/// A document in a line.
pub(super) struct Listed {
    key: String,
    link: String,
    place: String,
}

impl Listed {
    pub(super) fn of(resource: &Resource) -> Self {
        let namespace = resource.namespace.as_ref().map(ToString::to_string).unwrap_or_default();
        let link = format!(
            "/policies/document?kind={}&namespace={}&name={}",
            encoded(resource.kind.as_str()),
            encoded(&namespace),
            encoded(resource.name.as_str())
        );
        Self { key: resource.key().to_string(), link, place: resource.place("") }
    }
}

/// Documents as a table of a page.
pub(super) fn table(page: &mut Page, heading: &str, documents: &[Listed], none: &str) {
    page.table(
        heading,
        &["Document", "Stands in"],
        documents.iter().map(|Listed { key, link, place }| {
            format!(
                "<tr><td><a href=\"{}\">{}</a></td><td><code>{}</code></td></tr>",
                Escaped(link),
                Escaped(key),
                Escaped(place)
            )
        }),
        none,
    );
}

/// All documents, and all revisions.
pub(super) fn history(revisions: &[Revision], documents: &[Listed], frame: &Frame) -> String {
    let mut page = Page::new("Policies", Place::Policies, frame);
    table(&mut page, "Documents in force", documents, "None: weft apply -f FILE brings some.");
    revisions_table(&mut page, revisions);
    page.finish()
}

fn revisions_table(page: &mut Page, revisions: &[Revision]) {
    page.table(
        "Revisions, newest first",
        &["#Revision", "Time", "Author", "Source", "What changed"],
        revisions.iter().map(|revision| {
            format!(
                "<tr><td class=\"n\"><a href=\"/policies/{0}\">{0}</a></td><td>{1}</td><td>{2}</td><td>{3}</td><td>{4}</td></tr>",
                revision.number,
                Escaped(rfc3339(revision.time)),
                Escaped(&revision.author),
                revision.source.as_str(),
                Escaped(&revision.summary),
            )
        }),
        "Nothing was configured yet: weft apply -f FILE.",
    );
}

/// A document as it is in force, and the revisions that touched it.
pub(super) fn document(resource: &Resource, revisions: &[Revision], frame: &Frame) -> String {
    let mut page = Page::new(resource.key().to_string(), Place::Policies, frame);
    page.push(format_args!("<p>Stands in <code>{}</code></p>", Escaped(resource.place(""))));
    page.push(format_args!(
        "<pre tabindex=\"0\" role=\"region\" aria-label=\"The document\">{}</pre>",
        Escaped(to_yaml(&resource.document))
    ));
    revisions_table(&mut page, revisions);
    page.finish()
}

/// What a revision changed, document by document, and what the way back to it would.
pub(super) fn changes(
    number: u64,
    changed: &[Changed],
    (back, home): (&[Changed], Home),
    frame: &Frame,
) -> String {
    let mut page = Page::new(format!("Revision {number}"), Place::Policies, frame);
    page.push(format_args!(
        "<p><a href=\"/policies\">All revisions</a>{}</p>",
        neighbours(number, frame.revision)
    ));
    page.heading("What it changed");
    diffs(&mut page, changed, "It changed nothing that the one before it did not say.");
    if number != frame.revision {
        page.heading("Back to it");
        match home {
            Home::Kubernetes => way_back_there(&mut page, number, back),
            Home::Here | Home::NotReadYet => way_back(&mut page, number, back, frame),
        }
    }
    page.finish()
}

fn neighbours(number: u64, newest: u64) -> String {
    let link = |to: u64, word: &str| format!(" · <a href=\"/policies/{to}\">{word}</a>");
    let older = if number > 1 { link(number - 1, "the one before") } else { String::new() };
    let newer = if number < newest { link(number + 1, "the next one") } else { String::new() };
    older + &newer
}

fn way_back(page: &mut Page, number: u64, back: &[Changed], frame: &Frame) {
    if back.is_empty() {
        page.note("What it said is in force now.");
        return;
    }
    page.push(format_args!(
        "<p>This would be changed, as a new revision. In a terminal: <code>weft rollback {number}</code></p>"
    ));
    diffs(page, back, "");
    match &frame.session {
        Some(session) if session.operates() => page.push(format_args!(
            "<form method=\"post\" action=\"/policies/{number}/rollback\">{}<input type=\"hidden\" name=\"now\" value=\"{}\">\
             <button class=\"danger\">Roll back to revision {number}</button></form>",
            session.proof_field(),
            frame.revision
        )),
        _ => page.note("You look on as a viewer: an operator can roll back."),
    };
}

/// Where the configuration is in a cluster, and changed there.
fn way_back_there(page: &mut Page, number: u64, back: &[Changed]) {
    if back.is_empty() {
        page.note("What it said is in force now.");
        return;
    }
    page.push(format_args!(
        "<p>The configuration is in Kubernetes. In a terminal: <code>weft rollback {number} --print | kubectl apply -f -</code> \
         would change this, but for what is to be deleted:</p>"
    ));
    diffs(page, back, "");
}

fn diffs(page: &mut Page, changes: &[Changed], none: &str) {
    if changes.is_empty() {
        page.note(none);
    }
    for change in changes {
        page.push(format_args!("<h3>{} {}</h3>", change.action.as_str(), Escaped(&change.key)));
        page.push(format_args!(
            "<pre class=\"diff\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">",
            Escaped(&change.key)
        ));
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
}

/// Why something was not done.
pub(super) fn refused(reason: &str, frame: &Frame) -> String {
    let mut page = Page::new("Not done", Place::Policies, frame);
    page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason)));
    page.push("<p><a href=\"/policies\">Back to the policies</a></p>");
    page.finish()
}
