//! `weft dashboard`: where the dashboard is.

use std::process::ExitCode;

use anyhow::bail;

use crate::args::Common;
use crate::mesh::rendezvous::{Call, Name};
use crate::output;
use crate::target::parse_urls;

/// Where a control plane has its dashboard unless told otherwise.
const PORT: u16 = 7080;

/// Print where the dashboard is
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  xdg-open $(weft dashboard)")]
pub(crate) struct Arguments {}

pub(crate) fn execute(common: &Common) -> anyhow::Result<ExitCode> {
    output::print(&format!("{}\n", find(common.target.control_plane.as_deref())?))?;
    Ok(ExitCode::SUCCESS)
}

fn find(named: Option<&str>) -> anyhow::Result<String> {
    if let Some(list) = named {
        let urls = parse_urls(list)?;
        let Some(url) = urls.first() else { bail!("no control plane is named") };
        return Ok(beside(url));
    }
    for name in [Name::of_runs(), Name::of_demo()] {
        if let Some(own) = Call::dial(&name)?.and_then(|call| call.access().own.clone()) {
            return Ok(own.dashboard);
        }
    }
    Ok(format!("http://127.0.0.1:{PORT}"))
}

/// The dashboard of the control plane at a URL.
fn beside(url: &str) -> String {
    let authority = url.strip_prefix("https://").unwrap_or(url);
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    format!("http://{host}:{PORT}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_is_beside_the_control_plane() {
        assert_eq!(find(Some("https://cp.example:7443,https://b:1")).unwrap(), "http://cp.example:7080");
        assert_eq!(find(Some("https://[::1]")).unwrap(), "http://[::1]:7080");
        assert!(find(Some("cp")).is_err());
    }
}
