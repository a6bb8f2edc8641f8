//! Who has proved who they are, until when, and by whose signature.

use std::time::{Duration, SystemTime};

use weft_core::model::SpiffeId;
use weft_proto::v1::CaStatusResponse;

use super::html::{Escaped, Frame, Page, Place, Query, field};
use crate::report::rfc3339;
use crate::store::Certificate;

/// Certificates on a page.
const MOST: usize = 1_000;

pub(super) fn page(
    certificates: &[std::sync::Arc<Certificate>],
    authority: &CaStatusResponse,
    query: &Query,
    now: SystemTime,
    frame: &Frame,
) -> String {
    let mut page = Page::new("Identities", Place::Identities, frame).live();
    let wanted = query.value("name").trim();
    page.push("<form action=\"/identities\" role=\"search\">")
        .push(field("Identity or workload", "name", wanted, "default/sa/orders"))
        .push("<button>Search</button></form>");
    let mut found: Vec<_> = certificates
        .iter()
        .filter(|it| it.spiffe_id.contains(wanted) || it.workload.contains(wanted) || it.serial == wanted)
        .collect();
    found.sort_by_key(|certificate| certificate.not_after);
    let heading = if found.len() > MOST {
        format!("The {MOST} certificates that end first, of {}", found.len())
    } else {
        "Certificates in use, those that end first on top".to_owned()
    };
    page.table(
        &heading,
        &["Identity", "Workload", "Ends", "In", "Serial", "Issuer"],
        found.iter().take(MOST).map(|certificate| row(certificate, now)).collect::<Vec<_>>().into_iter(),
        "None.",
    );
    authority_of(&mut page, authority);
    page.finish()
}

fn row(certificate: &Certificate, now: SystemTime) -> String {
    let left = certificate.not_after.duration_since(now).unwrap_or_default();
    let whole = certificate.not_after.duration_since(certificate.not_before).unwrap_or_default();
    // A sidecar renews well before a tenth is left.
    let class = if left < whole / 10 { "n bad" } else { "n" };
    let known = certificate.spiffe_id.parse::<SpiffeId>().ok().and_then(|id| id.service_account());
    let shown = match known {
        Some((namespace, account)) => format!(
            "{}<small>.{}</small><br><code>{}</code>",
            Escaped(account),
            Escaped(namespace),
            Escaped(&certificate.spiffe_id)
        ),
        None => format!("<code>{}</code>", Escaped(&certificate.spiffe_id)),
    };
    format!(
        "<tr><td>{shown}</td><td>{}<small>.{}</small></td><td class=\"op\">{}</td><td class=\"{class}\">{}</td><td><code>{}</code></td><td>{}</td></tr>",
        Escaped(&certificate.workload),
        Escaped(&certificate.namespace),
        Escaped(rfc3339(certificate.not_after)),
        span(left),
        Escaped(&certificate.serial),
        Escaped(&certificate.issuer),
    )
}

fn authority_of(page: &mut Page, authority: &CaStatusResponse) {
    page.table(
        "Roots",
        &["Name", "Role", "Ends", "#Certificates", "Fingerprint"],
        authority.roots.iter().map(|root| {
            format!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td><td><code>{}</code></td></tr>",
                Escaped(&root.name),
                Escaped(&root.role),
                Escaped(&root.expires),
                root.certificates,
                Escaped(&root.fingerprint),
            )
        }),
        "None.",
    );
    page.push(format_args!(
        "<p>{} signs until {}. Where root and key are kept: {}.</p>",
        Escaped(&authority.issuing),
        Escaped(&authority.issuing_expires),
        Escaped(&authority.source),
    ));
    for wait in &authority.waits_for {
        page.push(format_args!("<p class=\"warn\">The move to another root waits: {}</p>", Escaped(wait)));
    }
    if !authority.trouble.is_empty() {
        page.push(format_args!("<p class=\"bad\">{}</p>", Escaped(&authority.trouble)));
    }
}

/// A time in two units at most.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_two_units_at_most() {
        for (seconds, shown) in [(3, "3 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(span(Duration::from_secs(seconds)), shown);
        }
    }

    #[test]
    fn what_ends_first_is_on_top_and_what_ends_soon_is_marked() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(1_000);
        let certificate = |workload: &str, left: u64| {
            std::sync::Arc::new(Certificate {
                serial: "<s>".into(),
                namespace: "default".into(),
                workload: workload.into(),
                spiffe_id: "spiffe://mesh.local/ns/default/sa/orders".into(),
                issuer: "<i>".into(),
                not_before: now - Duration::from_hours(10),
                not_after: now + Duration::from_mins(left),
                grant: crate::store::Grant::default(),
                root: String::new(),
                token: String::new(),
                replaced: false,
            })
        };
        let all = [certificate("later-1", 600), certificate("sooner-1", 30)];
        let shown = |query: &str| {
            page(&all, &CaStatusResponse::default(), &Query::of(Some(query)), now, &Frame::default())
        };
        let page = shown("");
        assert!(page.find("sooner-1") < page.find("later-1"), "{page}");
        assert!(page.contains("<td class=\"n bad\">30 min 0 s</td>"), "{page}");
        assert!(!page.contains("<s>") && !page.contains("<i>"), "{page}");
        assert!(!shown("name=later").contains("sooner-1"));
    }
}
