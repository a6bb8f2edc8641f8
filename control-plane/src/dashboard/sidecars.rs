//! Sidecars: connected, in sync, and until when their certificates last.

use weft_proto::v1::{IssuedIdentity, SidecarStatus, StatusResponse};

use super::html::{Escaped, Page, Place};

pub(super) fn page(status: &StatusResponse, identities: &[IssuedIdentity]) -> String {
    let mut page = Page::new("Sidecars", Place::Sidecars, status.revision).reloading();
    page.table(
        "Sidecars",
        &[
            "Workload",
            "Service account",
            "Connected",
            "Ready",
            "Configuration",
            "Certificate ends",
            "Version",
        ],
        status.sidecars.iter().map(|sidecar| row(sidecar, status.revision)),
        "No sidecar has connected yet.",
    );
    page.table(
        "Certificates in use",
        &["Workload", "Identity", "Serial", "Issuer", "Ends"],
        identities.iter().map(identity),
        "None.",
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
        "<tr><td>{}<small>.{}</small></td><td>{}</td><td>{}</td><td>{}</td><td>{sync}</td><td>{}</td><td>{}</td></tr>",
        Escaped(&sidecar.workload),
        Escaped(&sidecar.namespace),
        Escaped(&sidecar.service_account),
        said(sidecar.connected, "yes", "no"),
        said(sidecar.ready, "yes", &ready),
        Escaped(&sidecar.certificate_expires),
        Escaped(&sidecar.version),
    )
}

fn identity(identity: &IssuedIdentity) -> String {
    format!(
        "<tr><td>{}<small>.{}</small></td><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
        Escaped(&identity.workload),
        Escaped(&identity.namespace),
        Escaped(&identity.spiffe_id),
        Escaped(&identity.serial),
        Escaped(&identity.issuer),
        Escaped(&identity.not_after),
    )
}
