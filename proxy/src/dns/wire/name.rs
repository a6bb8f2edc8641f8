//! Names as they stand on the wire: labels behind their lengths (RFC 1035 section 3.1).

use super::{Malformed, Reader};

/// The longest name, with its lengths and its end (RFC 1035 section 2.3.4).
const LONGEST: usize = 255;

/// The longest label.
const LONGEST_LABEL: usize = 63;

/// A name without compression, in the case it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Reads a name that must not be compressed: the first of a message has nothing to point back to.
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut bytes = Vec::new();
        loop {
            let length = reader.u8()?;
            if usize::from(length) > LONGEST_LABEL || bytes.len() + usize::from(length) >= LONGEST {
                return Err(Malformed);
            }
            bytes.push(length);
            if length == 0 {
                return Ok(Self(bytes.into()));
            }
            bytes.extend_from_slice(reader.take(length.into())?);
        }
    }

    /// Passes over a name that may end in a pointer; the pointer is not followed.
    pub(super) fn skip(reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let mut whole = 0;
        loop {
            let length = reader.u8()?;
            match length >> 6 {
                0 if length == 0 => return Ok(()),
                0 => reader.take(length.into())?,
                0b11 => return reader.u8().map(drop),
                _ => return Err(Malformed),
            };
            whole += usize::from(length) + 1;
            if whole >= LONGEST {
                return Err(Malformed);
            }
        }
    }

    /// A name of these labels; none where one of them, or all together, are too long.
    pub fn of<'a>(labels: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut bytes = Vec::new();
        for label in labels {
            let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length))?;
            bytes.push(length);
            bytes.extend_from_slice(label.as_bytes());
        }
        bytes.push(0);
        (bytes.len() <= LONGEST).then(|| Self(bytes.into()))
    }

    /// The bytes of it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same in lower case: names are compared so (RFC 4343). No length is the number of an upper-case letter.
    pub fn lowercase(&self) -> Vec<u8> {
        self.0.to_ascii_lowercase()
    }

    /// The labels in lower case, each with the place in the name where it begins; none where one holds what no host's
    /// or service's name may.
    pub fn labels(&self) -> Option<Vec<(usize, String)>> {
        let mut found = Vec::new();
        let (mut at, mut rest) = (0, &*self.0);
        while let Some((length, behind)) = rest.split_first()
            && *length > 0
        {
            let (label, behind) = behind.split_at_checked(usize::from(*length))?;
            if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                return None;
            }
            found.push((at, String::from_utf8(label.to_ascii_lowercase()).ok()?));
            at += label.len() + 1;
            rest = behind;
        }
        Some(found)
    }
}
