//! Roots and an issuing certificate in files that others write: cert-manager, an agent of Vault, or somebody by hand.
//!
//! They are read every second, contents and all, which costs little, and sees whatever way they are replaced: Kubernetes swaps the
//! whole folder by one symbolic link. What is half written is passed over until it is whole.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use weft_certs::{Authority, CertError};
use weft_core::model::TrustDomain;

use super::{Ca, CaError};
use crate::report::chain;

/// No file of certificates is longer.
const LONGEST: u64 = 1 << 20;

/// Where they are.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The issuing certificate, and those between it and a root.
    pub(crate) chain: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
    /// What everybody is to trust.
    pub(crate) roots: PathBuf,
}

/// Why files are not taken over.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// One cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// They are no authority.
    #[error("the authority in {0} cannot be used")]
    Unusable(String, #[source] CertError),
}

/// What was found at the last look.
#[derive(Debug, Default)]
pub(super) struct Look(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Of the texts; none: they could not be read.
    digest: Option<Vec<u8>>,
    found: Option<Authority>,
    trouble: Option<String>,
}

struct Texts {
    chain: String,
    key: String,
    roots: String,
}

impl Files {
    /// What they hold now.
    pub(super) fn read(&self, domain: &TrustDomain, now: SystemTime) -> Result<Authority, FilesError> {
        self.authority(&self.texts()?, domain, now)
    }

    fn texts(&self) -> Result<Texts, FilesError> {
        Ok(Texts { chain: text(&self.chain)?, key: text(&self.key)?, roots: text(&self.roots)? })
    }

    fn authority(
        &self,
        texts: &Texts,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Authority, FilesError> {
        Authority::given(domain, &texts.chain, &texts.key, &texts.roots, now)
            .map_err(|error| FilesError::Unusable(self.to_string(), error))
    }
}

/// For people.
impl fmt::Display for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.chain.display(), self.key.display(), self.roots.display())
    }
}

impl Texts {
    fn digest(&self) -> Vec<u8> {
        let all = [&self.chain, &self.key, &self.roots].map(|text| digest(&SHA256, text.as_bytes()));
        all.iter().flat_map(|one| one.as_ref().to_vec()).collect()
    }
}

impl Look {
    /// Looks at the files; the authority in them, where there is a good one.
    fn again(&self, files: &Files, domain: &TrustDomain, now: SystemTime) -> Option<Authority> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let texts = files.texts();
        let digest = texts.as_ref().ok().map(Texts::digest);
        if digest.is_some() && digest == seen.digest {
            return seen.found.clone();
        }
        let found = texts.and_then(|texts| files.authority(&texts, domain, now));
        let trouble = found.as_ref().err().map(|error| chain(error));
        match &trouble {
            Some(reason) if seen.trouble != trouble => {
                tracing::error!(reason, "the authority's files are not taken over; what was last good stays");
            }
            None if seen.trouble.is_some() => tracing::info!("the authority's files are good again"),
            Some(_) | None => {}
        }
        *seen = Seen { digest, found: found.ok(), trouble };
        seen.found.clone()
    }

    /// What is wrong with them.
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }
}

impl Ca {
    /// Takes over what stands in the files, where there are some, and it is whole.
    pub(super) async fn follow_files(&self, now: SystemTime) -> Result<(), CaError> {
        let Some(files) = &self.files else { return Ok(()) };
        let Some(given) = self.look.again(files, &self.trust_domain(), now) else { return Ok(()) };
        let mut changing = self.changing.lock().await;
        let Some(next) = self.roots.load().follow(&given, now) else { return Ok(()) };
        tracing::info!(
            phase = next.phase().as_str(),
            issuing = next.issuer(),
            "following the authority's files"
        );
        self.adopt(&mut changing, next).await
    }
}

fn text(path: &Path) -> Result<String, FilesError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| FilesError::Read(path.to_owned(), error))
}
