//! By whom servers outside the mesh are believed whose document names nobody: by the authorities of the machine, where it is said
//! where these are, else by those that come with us.

use std::path::{Path, PathBuf};
use std::{fs, io};

use weft_certs::{CertError, is_anchor, pem};

/// A file of certificates, at most.
const MOST_BYTES: u64 = 4 * 1024 * 1024;

/// Files of a folder that are looked at.
const MOST_FILES: usize = 2_000;

/// Where the public authorities stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PublicRoots {
    /// All of them, as PEM.
    pub file: Option<PathBuf>,
    /// Each in a file of its own.
    pub folders: Vec<PathBuf>,
}

/// Why they are not known.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file or folder that is not there, or not for us.
    #[error("the public roots in {0} cannot be read")]
    Unreadable(PathBuf, #[source] io::Error),
    /// A file that is something else.
    #[error("the public roots in {0} are no certificates")]
    NoCertificates(PathBuf, #[source] CertError),
    /// Nothing there may vouch for anyone.
    #[error("there is no authority among the public roots")]
    None,
}

impl PublicRoots {
    /// The authorities, as DER; none are given: those that come with us. Read anew for each service that is first called in
    /// TLS, so that a bundle that has been replaced is heeded without a restart of those that never needed the old one.
    pub(super) fn read(&self) -> Result<Vec<Vec<u8>>, RootsError> {
        let mut found = Vec::new();
        if let Some(file) = &self.file {
            found.extend(certificates(file)?);
        }
        for folder in &self.folders {
            let unreadable = |error| RootsError::Unreadable(folder.clone(), error);
            for entry in fs::read_dir(folder).map_err(unreadable)?.take(MOST_FILES) {
                // Other things lie there as well.
                found.extend(certificates(&entry.map_err(unreadable)?.path()).unwrap_or_default());
            }
        }
        found.sort_unstable();
        found.dedup();
        // What nobody could be believed by is no reason not to believe the others.
        found.retain(|certificate| is_anchor(certificate));
        let is_said = self.file.is_some() || !self.folders.is_empty();
        if is_said && found.is_empty() { Err(RootsError::None) } else { Ok(found) }
    }
}

fn certificates(file: &Path) -> Result<Vec<Vec<u8>>, RootsError> {
    let unreadable = |error| RootsError::Unreadable(file.to_owned(), error);
    if fs::metadata(file).map_err(unreadable)?.len() > MOST_BYTES {
        return Err(unreadable(io::Error::from(io::ErrorKind::FileTooLarge)));
    }
    let text = fs::read_to_string(file).map_err(unreadable)?;
    pem::certificates(&text).map_err(|error| RootsError::NoCertificates(file.to_owned(), error))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use weft_certs::Authority;

    use super::*;

    #[test]
    fn authorities_are_read_from_a_file_and_from_folders_and_what_is_none_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            fs::write(&file, text).unwrap();
            file
        };
        assert_eq!(PublicRoots::default().read().unwrap(), Vec::<Vec<u8>>::new());
        let own = || {
            let domain = "mesh.local".parse().unwrap();
            Authority::create(&domain, SystemTime::now()).unwrap().anchors().remove(0)
        };
        let (one, two) = (own(), own());
        let nonsense = pem::from_certificates(&[b"nonsense"]);
        let bundle = write("bundle.pem", &[pem::from_certificates(&[&one, &one]), nonsense.clone()].concat());
        let file = PublicRoots { file: Some(bundle.clone()), folders: Vec::new() };
        assert_eq!(file.read().unwrap(), std::slice::from_ref(&one));
        write("two.pem", &pem::from_certificates(&[&two]));
        write("README", "not a certificate");
        let both = PublicRoots { file: Some(bundle), folders: vec![folder.path().to_owned()] };
        assert_eq!(both.read().unwrap().len(), 2);

        let told = |file: PathBuf| {
            PublicRoots { file: Some(file), folders: Vec::new() }.read().unwrap_err().to_string()
        };
        let absent = folder.path().join("absent.pem");
        assert_eq!(told(absent.clone()), format!("the public roots in {} cannot be read", absent.display()));
        assert!(told(write("text", "no PEM")).ends_with("are no certificates"));
        assert_eq!(told(write("nonsense", &nonsense)), "there is no authority among the public roots");
        let nowhere = PublicRoots { file: None, folders: vec![absent] };
        assert!(nowhere.read().unwrap_err().to_string().ends_with("cannot be read"));
    }
}
