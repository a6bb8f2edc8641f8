//! tap.

use tonic::Status;
use weft_proto::v1;

use super::{AdminService, namespace, qualified};
use crate::taps::Watching;

impl AdminService {
    /// Requests as they pass sidecars of ours.
    pub(crate) fn tap_here(&self, request: &v1::TapRequest) -> Result<Watching, Status> {
        let default = namespace(&request.namespace)?;
        let service = qualified("service", &request.service, &default)?;
        self.knows(&service)?;
        let from = match request.from.as_str() {
            "" => None,
            from => Some(qualified("service account", from, &default)?),
        };
        let (status_from, status_to) = statuses(&request.status)?;
        let filter = v1::TapFilter {
            service: service.to_string(),
            method: request.method.clone(),
            path: request.path.clone(),
            status_from,
            status_to,
            ..Default::default()
        };
        tracing::info!(%service, from = request.from, "somebody looks at requests");
        self.telemetry.taps().open(filter, from)
    }
}

/// `503`, or `5xx`: from which status to before which.
fn statuses(text: &str) -> Result<(u32, u32), Status> {
    let wrong = || Status::invalid_argument(format!("{text:?} is no status such as 503 or 5xx"));
    let text = text.trim();
    if text.is_empty() {
        return Ok((0, 0));
    }
    let (digits, width) = match text.to_ascii_lowercase().strip_suffix("xx") {
        Some(class) => (class.to_owned(), 100),
        None => (text.to_owned(), 1),
    };
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    let from = number.checked_mul(width).filter(|from| (100..600).contains(from)).ok_or_else(wrong)?;
    Ok((from, from + width))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_or_a_class() {
        let check = |text, expected: Option<(u32, u32)>| assert_eq!(statuses(text).ok(), expected, "{text}");
        check("", Some((0, 0)));
        check("503", Some((503, 504)));
        check("5xx", Some((500, 600)));
        check("4XX", Some((400, 500)));
        for wrong in ["x", "5x", "55xx", "99", "600", "-1", "4294967295xx"] {
            check(wrong, None);
        }
    }
}
