//! What would become of a call: the form, and the answer step by step.

use weft_proto::v1::{ExplainRequest, ExplainResponse, Field};

use super::html::{Escaped, Frame, Page, Place, Query, field};

/// What the form asks; none: nothing yet.
pub(super) fn question(query: &Query) -> Option<ExplainRequest> {
    let header = query
        .value("header")
        .split_once(':')
        .map(|(name, value)| Field { name: name.trim().to_owned(), value: value.trim().to_owned() });
    (!query.value("to").is_empty()).then(|| ExplainRequest {
        namespace: String::new(),
        from: query.value("from").to_owned(),
        to: query.value("to").to_owned(),
        method: query.value("method").to_ascii_uppercase(),
        path: query.value("path").to_owned(),
        headers: header.into_iter().collect(),
    })
}

/// The form, and below it what was answered.
pub(super) fn page(query: &Query, told: Option<Result<ExplainResponse, String>>, frame: &Frame) -> String {
    let mut page = Page::new("Explain", Place::Explain, frame);
    page.push("<form action=\"/explain\">")
        .push(field("From, a service account", "from", query.value("from"), "web"))
        .push(field("To, a service", "to", query.value("to"), "orders:8080"))
        .push(field("Method", "method", query.value("method"), "GET"))
        .push(field("Path", "path", query.value("path"), "/"))
        .push(field("Header", "header", query.value("header"), "x-user: 7"))
        .push("<button>Explain</button></form>");
    match told {
        None => _ = page.note("What the mesh would do with a request, and which document says so."),
        Some(Err(reason)) => {
            _ = page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason)))
        }
        Some(Ok(told)) => answer(&mut page, &told),
    }
    page.finish()
}

fn answer(page: &mut Page, told: &ExplainResponse) {
    let class = if told.decision == "forward" || told.decision == "answer" { "good" } else { "bad" };
    page.push(format_args!("<p><b class=\"{class}\">{}</b>", Escaped(&told.decision)));
    if told.status > 0 {
        page.push(format_args!(" with {}", told.status));
    }
    if !told.error.is_empty() {
        page.push(format_args!(", <code>weft-error: {}</code>", Escaped(&told.error)));
    }
    if !told.backend.is_empty() {
        page.push(format_args!(" to <code>{}</code>", Escaped(&told.backend)));
    }
    page.push("</p><ol class=\"steps\">");
    for step in &told.steps {
        page.push(format_args!("<li><b>{}</b>: {}", Escaped(&step.stage), Escaped(&step.text)));
        if !step.source.is_empty() {
            page.push(format_args!(" <small>{}</small>", Escaped(&step.source)));
        }
        page.push("</li>");
    }
    page.push("</ol>").table(
        "Who may answer",
        &["Workload", "Address", "Identity", "Zone", "#Priority", "Lets it in"],
        told.endpoints.iter().map(|endpoint| {
            let priority = match endpoint.priority {
                0 => String::new(),
                some => some.to_string(),
            };
            let lets = match endpoint.denied.as_str() {
                "" => "<span class=\"good\">yes</span>".to_owned(),
                why => format!("<span class=\"bad\">no: {}</span>", Escaped(why)),
            };
            format!(
                "<tr><td>{}</td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td class=\"n\">{priority}</td><td>{lets}</td></tr>",
                Escaped(&endpoint.workload),
                Escaped(&endpoint.address),
                Escaped(&endpoint.identity),
                Escaped(&endpoint.zone),
            )
        }),
        "Nobody.",
    );
    let settings = told.timeouts.iter().chain(&told.retries);
    let mut settings: Vec<_> = settings
        .map(|(name, value)| format!("<tr><td>{}</td><td>{}</td></tr>", Escaped(name), Escaped(value)))
        .collect();
    settings.sort();
    page.table("Timeouts and retries", &["Setting", "Value"], settings.into_iter(), "None.");
}
