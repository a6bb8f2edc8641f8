//! Sidecars: connected, ready, in sync, and who was let in without an identity.

use weft_proto::v1::{SidecarStatus, StatusResponse};

use super::html::{Escaped, Frame, Page, Place, service_link};

pub(super) fn page(status: &StatusResponse, frame: &Frame) -> String {
    let mut page = Page::new("Sidecars", Place::Sidecars, frame).live();
    let count = |wanted: fn(&SidecarStatus) -> bool| status.sidecars.iter().filter(|it| wanted(it)).count();
    let all = status.sidecars.len();
    page.push(format_args!(
        "<p>{all} sidecars: {} connected, {} ready, {} in sync with revision {}. The control plane is {}.</p>",
        count(|it| it.connected),
        count(|it| it.ready),
        count(|it| it.in_sync),
        status.revision,
        Escaped(&status.version),
    ));
    page.table(
        "Sidecars",
        &[
            "Workload",
            "Service account",
            "Offers",
            "Connected",
            "Ready",
            "Configuration",
            "Certificate ends",
            "Version",
        ],
        status.sidecars.iter().map(|sidecar| row(sidecar, status.revision)),
        "No sidecar has connected yet.",
    );
    let heard: Vec<_> = status.sidecars.iter().flat_map(plaintext).collect();
    page.table(
        "Let in without an identity",
        &["Workload", "#Port", "Caller", "Address", "Last seen"],
        heard.into_iter(),
        "Nobody, as far as the sidecars that are connected have told.",
    );
    page.finish()
}

fn row(sidecar: &SidecarStatus, newest: u64) -> String {
    let said = |holds: bool, yes: &str, no: &str| match holds {
        true => format!("<span class=\"good\">{}</span>", Escaped(yes)),
        false => format!("<span class=\"bad\">{}</span>", Escaped(no)),
    };
    let ready = match sidecar.unhealthy.as_slice() {
        [] => "no".to_owned(),
        failing => format!("fails the health check of {}", failing.join(", ")),
    };
    let offers: Vec<_> =
        sidecar.services.iter().map(|service| service_link(&sidecar.namespace, service)).collect();
    let offers = offers.join(", ");
    let mut sync = said(sidecar.in_sync, "in sync", &format!("has {} of {newest}", sidecar.revision));
    for rejection in &sidecar.rejected {
        let name = rejection.name.as_ref().map(|name| name.name.as_str()).unwrap_or_default();
        sync.push_str(&format!(
            "<br><span class=\"bad\">refuses {}: {}</span>",
            Escaped(name),
            Escaped(&rejection.reason)
        ));
    }
    format!(
        "<tr><td>{}<small>.{}</small></td><td>{}</td><td>{offers}</td><td>{}</td><td>{}</td><td>{sync}</td><td>{}</td><td>{}</td></tr>",
        Escaped(&sidecar.workload),
        Escaped(&sidecar.namespace),
        Escaped(&sidecar.service_account),
        said(sidecar.connected, "yes", "no"),
        said(sidecar.ready, "yes", &ready),
        Escaped(&sidecar.certificate_expires),
        Escaped(&sidecar.version),
    )
}

fn plaintext(sidecar: &SidecarStatus) -> Vec<String> {
    let row = |heard: &weft_proto::v1::PlaintextHeard| {
        format!(
            "<tr><td>{}<small>.{}</small></td><td class=\"n\">{}</td><td>{}</td><td><code>{}</code></td><td>{}</td></tr>",
            Escaped(&sidecar.workload),
            Escaped(&sidecar.namespace),
            heard.port,
            Escaped(if heard.caller.is_empty() { "unknown" } else { &heard.caller }),
            Escaped(&heard.address),
            Escaped(&heard.last_seen),
        )
    };
    sidecar.plaintext.iter().map(row).collect()
}
