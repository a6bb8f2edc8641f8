//! `weft identity fetch`: a certificate in files, for a peer that speaks mutual TLS by itself.
//!
//! What there is proves who asks for what follows it; the token is for the first one, and where that has ended. Files are
//! replaced all at once, as Kubernetes replaces those of a Secret: the names lead through one symbolic link.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use tonic::Request;
use tonic::metadata::{Ascii, MetadataValue};
use weft_certs::{Credentials, KeyPair, alpn, anchored_client_config, pem};
use weft_core::model::Name;
use weft_proto::v1;
use weft_proto::v1::identity_client::IdentityClient;

use crate::args::Common;
use crate::client::{answer, reach};
use crate::output;
use crate::target::Target;

/// What the link is called that everything leads through.
const CURRENT: &str = "..data";

/// Fetch a certificate into files, for a peer that has no sidecar and speaks mutual TLS by itself
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft token create --service-account gateway --ttl 10m --uses 1 > gateway.token
  weft identity fetch gateway-1 --token-file gateway.token --out /etc/gateway/identity
  weft identity fetch gateway-1 --out /etc/gateway/identity      again, by what is there: from time to time, by cron or a timer")]
pub(crate) struct Fetch {
    /// The workload that it is for
    workload: Name,
    /// Where tls.crt, tls.key and ca.crt are written
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(crate) async fn execute(common: &Common, fetch: Fetch) -> anyhow::Result<ExitCode> {
    let target = Target::of_options(&common.target)?;
    let held = Held::read(&fetch.out).filter(|held| held.credentials.not_after() > SystemTime::now());
    let key = KeyPair::generate()?;
    let request = || {
        anyhow::Ok(v1::SignRequest { csr: weft_certs::request(&key)?, workload: fetch.workload.to_string() })
    };
    let by_certificate = match &held {
        Some(held) => Some(held.ask(&target, request()?).await),
        None => None,
    };
    let signed = match by_certificate {
        Some(Ok(signed)) => signed,
        // Its token may do what it does not.
        Some(Err(_)) if common.target.token_file.is_some() => by_token(&target, request()?).await?,
        Some(Err(error)) => return Err(error),
        None if common.target.token_file.is_none() => {
            bail!(
                "there is no certificate in {} that is valid: name a token with --token-file",
                fetch.out.display()
            )
        }
        None => by_token(&target, request()?).await?,
    };
    // Nothing is written that could not be used.
    let first = signed.anchors.first().context("the control plane names no roots")?;
    let domain = weft_certs::trust_domain_of(first)?;
    let credentials = Credentials::new(signed.chain.clone(), &key, &signed.anchors, &domain)?;
    let files = [
        ("tls.crt", pem::from_certificates(&signed.chain)),
        ("tls.key", key.to_pem()),
        ("ca.crt", pem::from_certificates(&signed.anchors)),
    ];
    replace(&fetch.out, &credentials.serial().to_string(), &files)
        .with_context(|| format!("cannot write into {}", fetch.out.display()))?;
    output::note(&format!("{} in {}", credentials.identity(), fetch.out.display()))?;
    Ok(ExitCode::SUCCESS)
}

async fn by_token(target: &Target, request: v1::SignRequest) -> anyhow::Result<v1::SignResponse> {
    let (anchors, expected) = target.anchors()?;
    let tls = anchored_client_config(&anchors, &expected, &[alpn::H2])?;
    let bearer: Result<MetadataValue<Ascii>, _> = format!("Bearer {}", target.token()?).parse();
    let mut bearer = bearer.with_context(|| format!("{}: not a token", target.token.display()))?;
    bearer.set_sensitive(true);
    let mut request = Request::new(request);
    request.metadata_mut().insert("authorization", bearer);
    answer(IdentityClient::new(reach(target, tls).await?).sign(request).await)
}

/// What was fetched before.
struct Held {
    credentials: Credentials,
}

impl Held {
    fn read(directory: &Path) -> Option<Self> {
        let text = |name: &str| fs::read_to_string(directory.join(name)).ok();
        let (chain, anchors) =
            (pem::certificates(&text("tls.crt")?).ok()?, pem::certificates(&text("ca.crt")?).ok()?);
        let key = KeyPair::from_pem(&text("tls.key")?).ok()?;
        let domain = weft_certs::trust_domain_of(anchors.first()?).ok()?;
        Some(Self { credentials: Credentials::new(chain, &key, &anchors, &domain).ok()? })
    }

    async fn ask(&self, target: &Target, request: v1::SignRequest) -> anyhow::Result<v1::SignResponse> {
        let domain = self.credentials.trust_domain();
        let expected = format!("spiffe://{domain}/ns/weft/sa/control-plane").parse()?;
        let tls = self.credentials.client_config(&expected, &[alpn::H2])?;
        answer(IdentityClient::new(reach(target, tls).await?).sign(request).await)
    }
}

/// Puts files in the place of those that are there: whoever reads them finds these or those.
fn replace(directory: &Path, version: &str, files: &[(&str, String)]) -> std::io::Result<()> {
    let mut private = DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(directory)?;
    let before = fs::read_link(directory.join(CURRENT)).ok();
    let folder = format!("..{version}");
    private.create(directory.join(&folder))?;
    for (name, text) in files {
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(directory.join(&folder).join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    let next = directory.join("..next");
    let _ = fs::remove_file(&next);
    symlink(&folder, &next)?;
    fs::rename(&next, directory.join(CURRENT))?;
    for (name, _) in files {
        let link = directory.join(name);
        let leads_to = Path::new(CURRENT).join(name);
        if fs::read_link(&link).ok().as_deref() != Some(&leads_to) {
            let _ = fs::remove_file(&link);
            symlink(&leads_to, &link)?;
        }
    }
    // Only what we have made ourselves is removed.
    match before
        .filter(|before| before.to_str().is_some_and(|name| name.starts_with("..") && !name.contains('/')))
    {
        Some(before) if before != Path::new(&folder) => fs::remove_dir_all(directory.join(before)),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_replaced_together_private_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("identity");
        let files = |text: &str| [("tls.crt", text.to_owned()), ("tls.key", text.to_owned())];
        for version in ["0a", "0b"] {
            replace(&out, version, &files(version)).unwrap();
            assert_eq!(fs::read_to_string(out.join("tls.key")).unwrap(), version);
        }
        let mode = fs::metadata(out.join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut names: Vec<_> = fs::read_dir(&out)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["..0b", "..data", "tls.crt", "tls.key"]);
        assert!(Held::read(&out).is_none(), "no certificate");
    }
}
