//! Until when the anchors last that the API server proves the webhook by.

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use weft_certs::{end_of, pem};

use super::super::Check;
use crate::time::until;

const CHECK: &str = "webhook";
const HINT: &str = "the control plane that leads writes them: look into its log, and at weft ca status";
/// What the mesh renews has months left, if all is well.
const SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// Judges the bundles of a webhook that is called so.
pub(super) fn judge(named: &str, bundles: &[&str], now: Timestamp) -> Check {
    let ends: anyhow::Result<Vec<Timestamp>> = bundles.iter().map(|bundle| last(bundle)).collect();
    match ends.map(|ends| ends.into_iter().min()) {
        Ok(Some(end)) => {
            let detail = format!("{named}, its anchors end {}", until(&end.to_string()));
            match now.duration_until(end) {
                left if !left.is_positive() => Check::failed(CHECK, &anyhow!("{detail}"), HINT),
                left if left < SOON => Check::warning(CHECK, detail, HINT),
                _ => Check::ok(CHECK, detail),
            }
        }
        Ok(None) => Check::failed(CHECK, &anyhow!("{named}, without anchors"), HINT),
        Err(error) => {
            Check::failed(CHECK, &error.context(format!("{named}, its anchors cannot be read")), HINT)
        }
    }
}

/// When the last of a bundle's anchors ends: until then one of them proves something.
fn last(bundle: &str) -> anyhow::Result<Timestamp> {
    let text = String::from_utf8(STANDARD.decode(bundle)?)?;
    let ends: anyhow::Result<Vec<Timestamp>> =
        pem::certificates(&text)?.iter().map(|der| Ok(Timestamp::try_from(end_of(der)?)?)).collect();
    ends?.into_iter().max().context("no certificate")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weft_certs::Authority;

    use super::super::super::table;
    use super::*;

    fn said(bundles: &[&str], now: Timestamp) -> String {
        table(&[judge("it", bundles, now)], false, None)
    }

    #[test]
    fn anchors_that_end_soon_have_ended_or_are_none_are_told_of() {
        let authority = Authority::create(&"mesh.local".parse().unwrap(), SystemTime::now()).unwrap();
        let bundle = STANDARD.encode(authority.anchors_pem());
        let end = last(&bundle).unwrap();
        let before = |hours: i64| end - SignedDuration::from_hours(hours);
        assert!(said(&[&bundle], before(31 * 24)).starts_with("ok  webhook  it, its anchors end in "));
        assert!(said(&[&bundle, &bundle], before(24)).starts_with("warn  webhook  it, its anchors end in "));
        assert!(said(&[&bundle], end).starts_with("FAILED  webhook  it, its anchors end in "));
        for none in ["", "UEVN", "not base64"] {
            let said = said(&[&bundle, none], before(31 * 24));
            assert!(said.starts_with("FAILED  webhook  it, its anchors cannot be read"), "{said}");
        }
        assert!(said(&[], end).starts_with("FAILED  webhook  it, without anchors"));
    }
}
