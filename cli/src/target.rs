//! Which control plane a command talks to: the one it was told, else one that runs on this machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use weft_core::model::SpiffeId;

use crate::args;
use crate::mesh::rendezvous::{Call, Name};

/// Where a control plane listens when nobody says otherwise.
const DEFAULT_URL: &str = "https://127.0.0.1:7443";
/// Where it keeps its data when nobody says otherwise.
pub(crate) const DEFAULT_DATA_DIR: &str = "weft-data";

/// A control plane, and what it takes to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `https://HOST:PORT`, to be tried in turn.
    pub(crate) urls: Vec<String>,
    /// The mesh's trust anchors.
    pub(crate) ca: PathBuf,
    /// The administrator's token.
    pub(crate) token: PathBuf,
}

impl Target {
    /// The control plane that the options name; without any, the one of `weft run` or of `weft demo`, where the user
    /// has one running, else the usual address.
    pub(crate) fn find(options: &args::TargetOptions) -> anyhow::Result<Self> {
        if *options == args::TargetOptions::default() {
            for name in [Name::of_runs(), Name::of_demo()] {
                if let Some(own) = Call::dial(&name)?.and_then(|call| call.access().own.clone()) {
                    return Ok(own.target());
                }
            }
        }
        Self::of_options(options)
    }

    /// The control plane that the options name, or the usual one.
    pub(crate) fn of_options(options: &args::TargetOptions) -> anyhow::Result<Self> {
        let data_dir = options.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
        Ok(Self {
            urls: parse_urls(options.control_plane.as_deref().unwrap_or(DEFAULT_URL))?,
            ca: options.ca.clone().unwrap_or_else(|| data_dir.join("ca.pem")),
            token: options.token_file.clone().unwrap_or_else(|| data_dir.join("admin.token")),
        })
    }

    /// The trust anchors, and the identity that a control plane under them has.
    pub(crate) fn anchors(&self) -> anyhow::Result<(Vec<Vec<u8>>, SpiffeId)> {
        let text = read(&self.ca, "the mesh's trust anchors", "--ca or --data-dir")?;
        let path = self.ca.display();
        let anchors = weft_certs::pem::certificates(&text).with_context(|| path.to_string())?;
        let Some(first) = anchors.first() else { bail!("{path}: no certificate") };
        let domain = weft_certs::trust_domain_of(first).with_context(|| path.to_string())?;
        let expected = format!("spiffe://{domain}/ns/weft/sa/control-plane").parse()?;
        Ok((anchors, expected))
    }

    /// The administrator's token.
    pub(crate) fn token(&self) -> anyhow::Result<String> {
        let text = read(&self.token, "the administrator's token", "--token-file or --data-dir")?;
        Ok(text.trim().to_owned())
    }
}

fn read(path: &Path, what: &str, option: &str) -> anyhow::Result<String> {
    fs::read_to_string(path)
        .with_context(|| format!("cannot read {what} in {} (name the file with {option})", path.display()))
}

/// The URLs in a comma-separated list.
pub(crate) fn parse_urls(list: &str) -> anyhow::Result<Vec<String>> {
    list.split(',').map(str::trim).filter(|url| !url.is_empty()).map(parse_url).collect()
}

/// Completes a URL with the port that it leaves out.
fn parse_url(url: &str) -> anyhow::Result<String> {
    let uri: http::Uri = url.parse().with_context(|| format!("{url:?} is no URL such as {DEFAULT_URL}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => Ok(format!("https://{host}:{}", uri.port_u16().unwrap_or(7443))),
        _ => bail!("{url:?} is not of the form https://HOST:PORT"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(list: &str, expected: Option<&[&str]>) {
        let parsed = parse_urls(list).ok();
        let expected = expected.map(|urls| urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>());
        assert_eq!(parsed, expected, "{list:?}");
    }

    #[test]
    fn urls_are_https_and_have_a_port() {
        check("https://h:1", Some(&["https://h:1"]));
        check("https://h", Some(&["https://h:7443"]));
        check("https://a:1, https://[::1]:2", Some(&["https://a:1", "https://[::1]:2"]));
        for bad in ["h:1", "http://h:1", "https://", "::", "/path"] {
            check(bad, None);
        }
    }

    #[test]
    fn files_come_from_the_data_directory_unless_named() {
        let options = args::TargetOptions {
            data_dir: Some("/data".into()),
            token_file: Some("/secret".into()),
            ..args::TargetOptions::default()
        };
        let target = Target::of_options(&options).unwrap();
        assert_eq!(target.urls, [DEFAULT_URL]);
        assert_eq!(target.ca, Path::new("/data/ca.pem"));
        assert_eq!(target.token, Path::new("/secret"));
    }

    #[test]
    fn a_missing_file_says_which_option_names_it() {
        let target = Target { urls: Vec::new(), ca: "/nowhere/ca.pem".into(), token: "/nowhere/t".into() };
        let said = format!("{:#}", target.anchors().unwrap_err());
        assert!(said.contains("/nowhere/ca.pem") && said.contains("--ca"), "{said}");
        assert!(format!("{:#}", target.token().unwrap_err()).contains("--token-file"));
    }
}
