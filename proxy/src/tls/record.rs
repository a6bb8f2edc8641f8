//! The record layer of TLS 1.3 (RFC 8446 section 5) after the handshake: what is sealed goes from one buffer to the other
//! without a copy in between, and what is opened does too.
//!
//! rustls does everything until the keys are agreed on; see docs/decisions for why not this as well. No I/O here.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

/// A record carries no more than this (section 5.1).
pub const MAX_PLAIN: usize = 1 << 14;

/// The bytes before what is sealed: type, version, length (section 5.2).
pub(super) const HEADER: usize = 5;

/// AEAD tags of all suites of TLS 1.3 have this length.
const TAG: usize = 16;

/// What a record adds to what it carries: header, inner type, tag.
pub const OVERHEAD: usize = HEADER + 1 + TAG;

/// What may follow a header (section 5.2); longer ones are refused before they are read.
const MAX_SEALED: usize = MAX_PLAIN + 256;

/// The outer type of everything that is sealed.
const APPLICATION_DATA: u8 = 23;

/// Records that one key may seal: the limit that section 5.5 sets for AES-GCM is a little above.
const KEY_LIFE: u64 = 1 << 24;

/// What a record carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Why the peer ends.
    Alert,
    /// A message of TLS, or a part of one.
    Handshake,
    /// Bytes.
    Data,
}

/// Why a connection cannot go on, as the alert that says it (section 6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// What no one sealed, or someone changed.
    #[error("a record of TLS was not made by the peer, or was changed on the way")]
    BadRecord,
    /// Longer than any may be.
    #[error("a record of TLS is too long")]
    Overflow,
    /// What may not come here, or not so often.
    #[error("a message of TLS does not belong here")]
    Unexpected,
    /// What is no message.
    #[error("a message of TLS is malformed")]
    Malformed,
    /// Ours.
    #[error("the TLS library failed")]
    Internal,
}

impl Fault {
    pub(super) const fn alert(self) -> u8 {
        match self {
            Self::Unexpected => 10,
            Self::BadRecord => 20,
            Self::Overflow => 22,
            Self::Malformed => 50,
            Self::Internal => 80,
        }
    }
}

impl Content {
    const fn code(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => APPLICATION_DATA,
        }
    }

    const fn of_code(code: u8) -> Option<Self> {
        match code {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            APPLICATION_DATA => Some(Self::Data),
            _ => None,
        }
    }
}

/// The whole length of the record that `bytes` begin with; none: too little is there to say.
///
/// # Errors
/// No record may begin so.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let [kind, _, _, high, low, ..] = *bytes else { return Ok(None) };
    // Under keys there is nothing else on the wire (section 5); the version counts for nothing (section 5.1).
    if kind != APPLICATION_DATA {
        return Err(Fault::Unexpected);
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        sealed if sealed > MAX_SEALED => Err(Fault::Overflow),
        sealed if sealed <= TAG => Err(Fault::BadRecord),
        sealed => Ok(Some(HEADER + sealed)),
    }
}

/// What [`Key::open`] needs room for, given the whole length of the record.
pub const fn opened_length(record: usize) -> usize {
    record.saturating_sub(HEADER + TAG)
}

/// One direction's key, and how many records it has sealed or opened.
pub struct Key {
    aead: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    life: u64,
}

impl fmt::Debug for Key {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

impl Key {
    /// The key that these secrets are, after so many records.
    ///
    /// # Errors
    /// They are of a suite that TLS 1.3 does not have.
    pub fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, Fault> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(Fault::Internal),
        };
        let aead = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Fault::Internal)?;
        let iv = iv.as_ref().try_into().map_err(|_| Fault::Internal)?;
        Ok(Self { aead: LessSafeKey::new(aead), iv, sequence, life: KEY_LIFE })
    }

    /// Whether it has sealed as much as it may.
    pub(super) fn is_worn(&self) -> bool {
        self.sequence >= self.life
    }

    #[cfg(test)]
    pub(super) fn wear_out(&mut self) {
        self.life = self.sequence;
    }

    /// The nonce of the next record (section 5.3). Each is used once: the count goes up before it is given out.
    fn next_nonce(&mut self) -> Result<Nonce, Fault> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Fault::Internal)?;
        let mut nonce = self.iv;
        for (byte, count) in nonce.iter_mut().skip(4).zip(sequence.to_be_bytes()) {
            *byte ^= count;
        }
        Ok(Nonce::assume_unique_for_key(nonce))
    }

    /// Seals `plain` as one record at the start of `out`; the record's length.
    ///
    /// # Errors
    /// It is more than a record carries, or `out` has no room for it.
    pub fn seal(&mut self, content: Content, plain: &[u8], out: &mut [u8]) -> Result<usize, Fault> {
        let Parts { header, sealed, end } = Parts::of(out, plain.len())?;
        let nonce = self.next_nonce()?;
        self.aead
            .seal_out_of_place_scatter(nonce, Aad::from(header), plain, sealed, &[content.code()], end)
            .map_err(|_| Fault::Internal)?;
        Ok(plain.len() + OVERHEAD)
    }

    /// The same for what stands in `out` already, behind the room for the header.
    pub(super) fn seal_in_place(
        &mut self,
        content: Content,
        length: usize,
        out: &mut [u8],
    ) -> Result<usize, Fault> {
        let Parts { header, sealed: plain, end } = Parts::of(out, length)?;
        let nonce = self.next_nonce()?;
        self.aead
            .seal_in_place_scatter(nonce, Aad::from(header), plain, &[content.code()], end)
            .map_err(|_| Fault::Internal)?;
        Ok(length + OVERHEAD)
    }

    /// Opens a whole record into `out`, which has room for [`opened_length`]: what it carries, and its length.
    ///
    /// # Errors
    /// The peer did not seal it, or may not have.
    pub fn open(&mut self, record: &[u8], out: &mut [u8]) -> Result<(Content, usize), Fault> {
        let (header, sealed) = record.split_first_chunk::<HEADER>().ok_or(Fault::Malformed)?;
        let (sealed, tag) = sealed.split_last_chunk::<TAG>().ok_or(Fault::BadRecord)?;
        let out = out.get_mut(..sealed.len()).ok_or(Fault::Internal)?;
        let nonce = self.next_nonce()?;
        self.aead
            .open_separate_gather(nonce, Aad::from(header), sealed, tag, out)
            .map_err(|_| Fault::BadRecord)?;
        unpad(out)
    }

    /// Opens a whole record where it stands; what it carries begins behind the header.
    ///
    /// # Errors
    /// As of [`Key::open`].
    pub fn open_in_place(&mut self, record: &mut [u8]) -> Result<(Content, usize), Fault> {
        let (header, sealed) = record.split_first_chunk_mut::<HEADER>().ok_or(Fault::Malformed)?;
        let nonce = self.next_nonce()?;
        let opened = self.aead.open_in_place(nonce, Aad::from(*header), sealed);
        unpad(opened.map_err(|_| Fault::BadRecord)?)
    }
}

/// A record that is being made: what is sealed, and behind it the room for its type and its tag.
struct Parts<'a> {
    header: [u8; HEADER],
    sealed: &'a mut [u8],
    end: &'a mut [u8],
}

impl<'a> Parts<'a> {
    /// Those of a record at the start of `out` that carries `length` bytes. The header is written.
    fn of(out: &'a mut [u8], length: usize) -> Result<Self, Fault> {
        if length > MAX_PLAIN {
            return Err(Fault::Internal);
        }
        let [high, low] = u16::try_from(length + 1 + TAG).map_err(|_| Fault::Internal)?.to_be_bytes();
        let header = [APPLICATION_DATA, 3, 3, high, low];
        let (begin, rest) = out.split_first_chunk_mut::<HEADER>().ok_or(Fault::Internal)?;
        *begin = header;
        let (sealed, rest) = rest.split_at_mut_checked(length).ok_or(Fault::Internal)?;
        let end = rest.get_mut(..1 + TAG).ok_or(Fault::Internal)?;
        Ok(Self { header, sealed, end })
    }
}

/// What was opened: the type is the last byte that is not zero (section 5.4).
///
/// # Errors
/// No peer may seal that.
pub fn unpad(opened: &[u8]) -> Result<(Content, usize), Fault> {
    // Padding makes a record no longer than any may be.
    if opened.len() > MAX_PLAIN + 1 {
        return Err(Fault::Overflow);
    }
    let length = opened.iter().rposition(|byte| *byte != 0).ok_or(Fault::Unexpected)?;
    let code = opened.get(length).copied().unwrap_or_default();
    match Content::of_code(code) {
        Some(Content::Data) => Ok((Content::Data, length)),
        // Section 5.1: these are never empty.
        Some(content) if length > 0 => Ok((content, length)),
        Some(_) | None => Err(Fault::Unexpected),
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    /// The same key twice: one to seal with, one to open with.
    fn keys() -> (Key, Key) {
        let key = || {
            let secrets =
                ConnectionTrafficSecrets::Aes256Gcm { key: AeadKey::from([7; 32]), iv: Iv::from([9; 12]) };
            Key::new(0, &secrets).unwrap()
        };
        (key(), key())
    }

    fn sealed(key: &mut Key, content: Content, plain: &[u8]) -> Vec<u8> {
        let mut record = vec![0; plain.len() + OVERHEAD];
        assert_eq!(key.seal(content, plain, &mut record).unwrap(), record.len());
        record
    }

    #[test]
    fn what_is_sealed_is_opened_either_way() {
        let (mut sealing, mut opening) = keys();
        for (content, plain) in [
            (Content::Data, &b""[..]),
            (Content::Data, b"x"),
            (Content::Data, &[0; MAX_PLAIN]),
            (Content::Alert, &[1, 0]),
        ] {
            let mut record = sealed(&mut sealing, content, plain);
            assert_eq!(length(&record).unwrap(), Some(record.len()));
            let mut out = vec![1; plain.len() + 1];
            assert_eq!(opening.open(&record, &mut out).unwrap(), (content, plain.len()));
            assert_eq!(out[..plain.len()], *plain);

            let size = plain.len();
            record[HEADER..HEADER + size].copy_from_slice(plain);
            assert_eq!(sealing.seal_in_place(content, size, &mut record).unwrap(), record.len());
            assert_eq!(opening.open_in_place(&mut record).unwrap(), (content, size));
            assert_eq!(record[HEADER..HEADER + size], *plain);
        }
    }

    #[test]
    fn every_changed_byte_and_every_missing_record_is_noticed() {
        let (mut sealing, _) = keys();
        let record = sealed(&mut sealing, Content::Data, b"some bytes");
        for at in 0..record.len() {
            let mut changed = record.clone();
            changed[at] ^= 1;
            let (_, mut opening) = keys();
            assert_eq!(opening.open(&changed, &mut [0; 64]), Err(Fault::BadRecord), "byte {at}");
        }
        let second = sealed(&mut sealing, Content::Data, b"some bytes");
        let (_, mut opening) = keys();
        assert_eq!(opening.open(&second, &mut [0; 64]), Err(Fault::BadRecord), "the first was left out");
    }

    #[test]
    fn lengths_and_types_that_no_peer_may_send_are_refused() {
        assert_eq!(length(&[23, 3, 3, 0]), Ok(None));
        assert_eq!(length(&[23, 3, 3, 0x41, 0x01]), Err(Fault::Overflow));
        assert_eq!(length(&[23, 3, 3, 0x41, 0x00]), Ok(Some(HEADER + MAX_SEALED)));
        assert_eq!(length(&[23, 3, 3, 0, 16]), Err(Fault::BadRecord));
        for kind in [20, 21, 22, 24] {
            assert_eq!(length(&[kind, 3, 3, 0, 30]), Err(Fault::Unexpected));
        }
    }

    #[test]
    fn padding_is_taken_off_and_nothing_but_padding_is_refused() {
        assert_eq!(unpad(b"data\x17\0\0\0"), Ok((Content::Data, 4)));
        assert_eq!(unpad(b"\x17"), Ok((Content::Data, 0)));
        for refused in [&b"\0\0\0"[..], b"", b"\x15", b"\x16\0", b"x\x14", b"x\x18"] {
            assert_eq!(unpad(refused), Err(Fault::Unexpected), "{refused:?}");
        }
        let long = [&[1; MAX_PLAIN + 1][..], &[23]].concat();
        assert_eq!(unpad(&long), Err(Fault::Overflow));
        let padded = |zeros: usize| [&b"x\x17"[..], &vec![0; zeros]].concat();
        assert_eq!(unpad(&padded(MAX_PLAIN - 1)), Ok((Content::Data, 1)));
        assert_eq!(unpad(&padded(MAX_PLAIN)), Err(Fault::Overflow));
    }

    #[test]
    fn a_key_is_worn_after_its_life() {
        let (mut sealing, _) = keys();
        sealing.sequence = KEY_LIFE - 2;
        for worn in [false, false, true] {
            assert_eq!(sealing.is_worn(), worn);
            sealed(&mut sealing, Content::Data, b"x");
        }
    }
}
