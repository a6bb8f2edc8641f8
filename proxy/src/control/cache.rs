//! The last good state on disk: configuration, certificate, key and anchors, so that a sidecar that starts while the
//! control plane is down serves all the same.
//!
//! Files are replaced by renaming, never written in place. What cannot be read is as good as absent.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use prost::Message as _;
use weft_certs::{KeyPair, pem};
use weft_core::model::Name;
use weft_proto::v1;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const STATE: &str = "state";
const IDENTITY: &str = "identity.pem";
const ANCHORS: &str = "anchors.pem";
/// Stands before the anchors' number, in a line of its own.
const SEQUENCE: &str = "sequence: ";

/// A directory for one workload's state.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// A certificate chain with its key and the anchors that came with it.
#[derive(Debug)]
pub(super) struct Identity {
    /// The key.
    pub(super) key: KeyPair,
    /// The chain, DER, leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    /// The anchors, DER.
    pub(super) anchors: Vec<Vec<u8>>,
    /// The number of the trust that these are of.
    pub(super) sequence: u64,
}

impl Cache {
    /// The cache of this workload, in a folder of its own that nobody else can read.
    pub(super) fn open(dir: &Path, workload: &Name) -> io::Result<Self> {
        let dir = dir.join(workload.as_str());
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        Ok(Self { dir })
    }

    /// Keeps the configuration.
    pub(super) fn store_state(&self, push: &v1::Push) -> io::Result<()> {
        let body = push.encode_to_vec();
        let mut file = format!("weft-state {VERSION} {:016x}\n", checksum(&body)).into_bytes();
        file.extend_from_slice(&body);
        self.replace(STATE, &file)
    }

    /// The configuration, and whether this version wrote it.
    pub(super) fn load_state(&self) -> Option<(v1::Push, bool)> {
        let file = fs::read(self.dir.join(STATE)).ok()?;
        let end = file.iter().position(|byte| *byte == b'\n')?;
        let (head, body) = file.split_at_checked(end + 1)?;
        let mut words = str::from_utf8(head).ok()?.split_whitespace();
        let (magic, version, sum) = (words.next()?, words.next()?, words.next()?);
        if magic != "weft-state" || sum != format!("{:016x}", checksum(body)) {
            tracing::warn!(dir = %self.dir.display(), "the cached configuration is damaged and not used");
            return None;
        }
        Some((v1::Push::decode(body).ok()?, version == VERSION))
    }

    /// Keeps who we are.
    pub(super) fn store_identity(&self, identity: &Identity) -> io::Result<()> {
        let text = identity.key.to_pem() + &pem::from_certificates(&identity.chain);
        let anchors =
            format!("{SEQUENCE}{}\n{}", identity.sequence, pem::from_certificates(&identity.anchors));
        self.replace(ANCHORS, anchors.as_bytes())?;
        self.replace(IDENTITY, text.as_bytes())
    }

    /// Who we were.
    pub(super) fn load_identity(&self) -> Option<Identity> {
        let text = fs::read_to_string(self.dir.join(IDENTITY)).ok()?;
        let anchors = fs::read_to_string(self.dir.join(ANCHORS)).ok()?;
        let key = text.split_inclusive("-----END PRIVATE KEY-----").next()?;
        let sequence = anchors.strip_prefix(SEQUENCE).and_then(|rest| rest.lines().next()?.parse().ok());
        Some(Identity {
            sequence: sequence.unwrap_or_default(),
            key: KeyPair::from_pem(key).ok()?,
            chain: pem::certificates(&text).ok()?,
            anchors: pem::certificates(&anchors).ok()?,
        })
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let temporary = self.dir.join(format!(".{name}.{}", std::process::id()));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        fs::rename(&temporary, self.dir.join(name))
    }
}

/// FNV-1a: enough to notice a damaged file; nobody is to be kept from forging one in a folder of our own.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path) -> Cache {
        Cache::open(dir, &"web".parse().unwrap()).unwrap()
    }

    #[test]
    fn configuration_is_read_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        assert!(cache.load_state().is_none());
        let push = v1::Push { epoch: 3, revision: 9, ..v1::Push::default() };
        cache.store_state(&push).unwrap();
        assert_eq!(cache.load_state(), Some((push, true)));
        let path = dir.path().join("web").join(STATE);
        let good = fs::read(&path).unwrap();
        for damage in [good.len() - 1, 0, 20] {
            let mut bad = good.clone();
            bad[damage] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(cache.load_state().is_none(), "byte {damage}");
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(cache.load_state().is_none());
    }

    #[test]
    fn another_versions_configuration_is_marked_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let body = v1::Push::default().encode_to_vec();
        let text = format!("weft-state 0.0.0 {:016x}\n", checksum(&body));
        fs::write(dir.path().join("web").join(STATE), text).unwrap();
        assert_eq!(cache.load_state(), Some((v1::Push::default(), false)));
    }

    #[test]
    fn the_identity_is_read_back_and_nobody_else_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path());
        let key = KeyPair::generate().unwrap();
        let pem = key.to_pem();
        let identity =
            Identity { key, chain: vec![vec![1, 2], vec![3]], anchors: vec![vec![4]], sequence: 7 };
        cache.store_identity(&identity).unwrap();
        let again = cache.load_identity().unwrap();
        assert_eq!((again.key.to_pem(), again.chain, again.anchors), (pem, identity.chain, identity.anchors));
        assert_eq!(again.sequence, 7);
        let mode = fs::metadata(dir.path().join("web").join(IDENTITY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
