//! Secrets at rest: sealed by a key that a passphrase gives, or in the clear.
//!
//! PBKDF2 (RFC 8018) makes the key, AES-256-GCM seals each secret under its own name, so that none can be put in another's
//! place. What was written in the clear before may remain in pages of the file that are free now.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{pbkdf2, rand};

use super::StoreError;
use super::engine::{Batch, Engine, Outcome, Table};

/// Of HMAC-SHA-512: a fifth of a second or so for each guess.
const ROUNDS: u32 = 210_000;
const SALT: usize = 16;
/// How often it is tried again because somebody else changes secrets.
const TRIES: usize = 5;
const WHAT: &str = "take its secrets";
/// The secrets that say that others are sealed, and prove the passphrase.
const HEADER: &str = "seal";
const PROOF: &str = "seal-proof";
const PROVES: &[u8] = b"weft";

/// What keys are sealed with; it is not shown.
#[derive(Clone)]
pub(crate) struct Passphrase(Vec<u8>);

/// How secrets are to be kept.
#[derive(Debug, Clone)]
pub(crate) enum Custody {
    /// In the clear.
    Clear,
    /// Sealed, from now on where they were not.
    Sealed(Passphrase),
    /// In the clear from now on, where they were sealed.
    Unsealed(Passphrase),
}

/// Seals and opens.
pub(super) struct Seal(RandomizedNonceKey);

impl Passphrase {
    /// Of what stands in a file: a line's end after it is not of it.
    pub(crate) fn new(text: &[u8]) -> Option<Self> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        (!text.is_empty()).then(|| Self(text.to_vec()))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

impl Seal {
    fn new(passphrase: &Passphrase, salt: &[u8], rounds: u32) -> Result<Self, StoreError> {
        let rounds = NonZeroU32::new(rounds).ok_or(StoreError::Seal("its rounds are none"))?;
        let mut key = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, rounds, salt, &passphrase.0, &mut key);
        RandomizedNonceKey::new(&AES_256_GCM, &key).map(Self).map_err(|_| StoreError::Seal("there is no key"))
    }

    pub(super) fn close(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut sealed = secret.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(name), &mut sealed);
        let nonce = nonce.map_err(|_| StoreError::Seal("a secret cannot be sealed"))?;
        Ok([nonce.as_ref().as_slice(), &sealed].concat())
    }

    pub(super) fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        let broken = || StoreError::Seal("a secret was changed, or is another's");
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(broken)?;
        let mut opened = sealed.to_vec();
        let secret = self.0.open_in_place(Nonce::from(nonce), Aad::from(name), &mut opened);
        Ok(secret.map_err(|_| broken())?.to_vec())
    }
}

/// Brings the secrets of a store into the custody that is wanted, all or none of them.
pub(super) async fn take(engine: &Engine, custody: &Custody) -> Result<Option<Seal>, StoreError> {
    for _ in 0..TRIES {
        let secrets = engine.scan(WHAT, Table::Secrets).await?;
        let of = |wanted: &str| secrets.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let (header, proof) = (of(HEADER), of(PROOF).cloned().unwrap_or_default());
        let (seal, batch) = match (header, custody) {
            (None, Custody::Clear | Custody::Unsealed(_)) => return Ok(None),
            (Some(_), Custody::Clear) => return Err(StoreError::Sealed),
            (Some(header), Custody::Sealed(passphrase)) => {
                return prove(header, &proof, passphrase).map(Some);
            }
            (Some(header), Custody::Unsealed(passphrase)) => {
                (None, unsealing(&prove(header, &proof, passphrase)?, &secrets)?)
            }
            (None, Custody::Sealed(passphrase)) => {
                let (seal, batch) = sealing(passphrase, &secrets)?;
                (Some(seal), batch)
            }
        };
        // Another control plane over the same store may do the same at this moment.
        if engine.commit(WHAT, batch).await? == Outcome::Done {
            return Ok(seal);
        }
    }
    Err(StoreError::Changed("the seal of the keys"))
}

fn sealing(passphrase: &Passphrase, secrets: &[(String, Vec<u8>)]) -> Result<(Seal, Batch), StoreError> {
    let mut salt = [0; SALT];
    rand::fill(&mut salt).map_err(|_| StoreError::Seal("the system's random source failed"))?;
    let seal = Seal::new(passphrase, &salt, ROUNDS)?;
    let header = [&ROUNDS.to_be_bytes()[..], &salt].concat();
    let mut batch =
        Batch::default().expecting(Table::Secrets, HEADER, None).putting(Table::Secrets, HEADER, header);
    batch = batch.putting(Table::Secrets, PROOF, seal.close(PROOF, PROVES)?);
    for (name, secret) in secrets {
        batch = batch.expecting(Table::Secrets, name, Some(secret.clone())).putting(
            Table::Secrets,
            name,
            seal.close(name, secret)?,
        );
    }
    Ok((seal, batch))
}

fn unsealing(seal: &Seal, secrets: &[(String, Vec<u8>)]) -> Result<Batch, StoreError> {
    let mut batch = Batch::default();
    for (name, sealed) in secrets {
        batch = batch.expecting(Table::Secrets, name, Some(sealed.clone()));
        batch = match name.as_str() {
            HEADER | PROOF => batch.deleting(Table::Secrets, name),
            _ => batch.putting(Table::Secrets, name, seal.open(name, sealed)?),
        };
    }
    Ok(batch)
}

fn prove(header: &[u8], proof: &[u8], passphrase: &Passphrase) -> Result<Seal, StoreError> {
    let (rounds, salt) = header.split_first_chunk::<4>().ok_or(StoreError::Seal("its record is cut off"))?;
    let seal = Seal::new(passphrase, salt, u32::from_be_bytes(*rounds))?;
    match seal.open(PROOF, proof) {
        Ok(proved) if proved == PROVES => Ok(seal),
        Ok(_) | Err(_) => Err(StoreError::WrongPassphrase),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::*;

    fn sealed(passphrase: &str) -> Custody {
        Custody::Sealed(Passphrase::new(passphrase.as_bytes()).unwrap())
    }

    #[tokio::test]
    async fn secrets_are_sealed_and_unsealed_and_open_to_the_right_passphrase_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weft.redb");
        let holds = |text: &str| {
            let bytes = std::fs::read(&file).unwrap();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        };
        {
            let store = Store::open_in(dir.path(), &sealed("one\n")).await.unwrap();
            store.keep_secret("key", b"hush-hush".to_vec()).await.unwrap();
            store.replace_secret("other", b"quiet-please".to_vec()).await.unwrap();
            assert_eq!(store.keep_secret("key", b"another".to_vec()).await.unwrap(), b"hush-hush");
        }
        assert!(!holds("hush-hush") && !holds("quiet-please"));
        assert!(matches!(Store::open_in(dir.path(), &Custody::Clear).await, Err(StoreError::Sealed)));
        assert!(matches!(Store::open_in(dir.path(), &sealed("two")).await, Err(StoreError::WrongPassphrase)));
        let secret = async |custody: &Custody| {
            let store = Store::open_in(dir.path(), custody).await.unwrap();
            (store.secret("key").await.unwrap().unwrap(), store.secret("other").await.unwrap().unwrap())
        };
        let both = (b"hush-hush".to_vec(), b"quiet-please".to_vec());
        assert_eq!(secret(&sealed("one")).await, both);
        // Off, which may be said twice, and on again.
        let off = Custody::Unsealed(Passphrase::new(b"one\r\n").unwrap());
        assert_eq!(secret(&off).await, both);
        assert!(holds("hush-hush"));
        assert_eq!(secret(&off).await, both);
        assert_eq!(secret(&Custody::Clear).await, both);
        assert_eq!(secret(&sealed("three")).await, both);
        assert!(matches!(Store::open_in(dir.path(), &sealed("one")).await, Err(StoreError::WrongPassphrase)));
    }

    #[test]
    fn a_secret_in_the_place_of_another_and_a_changed_one_are_noticed() {
        let seal = Seal::new(&Passphrase::new(b"x").unwrap(), b"salt", 2).unwrap();
        let mut sealed = seal.close("a", b"secret").unwrap();
        assert_eq!(seal.open("a", &sealed).unwrap(), b"secret");
        assert!(seal.open("b", &sealed).is_err());
        *sealed.last_mut().unwrap() ^= 1;
        assert!(seal.open("a", &sealed).is_err() && seal.open("a", b"short").is_err());
        assert!(Passphrase::new(b"\n").is_none() && Passphrase::new(b"").is_none());
    }
}
