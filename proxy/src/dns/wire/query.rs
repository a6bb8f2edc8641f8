//! What is read of a question, and what makes it unreadable.

use super::records::{Section, records};
use super::{HEADER, Header, IN, Malformed, Name, PLAIN_UDP, Reader, flag, kind};

/// A question, as far as it must be understood to answer it or to pass it on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    pub(in crate::dns) id: u16,
    pub(in crate::dns) flags: u16,
    pub(in crate::dns) name: Name,
    pub(in crate::dns) kind: u16,
    pub(in crate::dns) class: u16,
    pub(in crate::dns) edns: Option<Edns>,
    /// It says more than what is asked: signatures, cookies, the asker's network. Its answer is nobody else's.
    pub(in crate::dns) particular: bool,
}

/// What the asker says of itself (RFC 6891 section 6.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    pub(in crate::dns) payload: u16,
    pub(in crate::dns) version: u8,
    pub(in crate::dns) dnssec: bool,
}

/// Why a packet is no question for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// No question at all; it gets no answer, for an answer to an answer never ends.
    Noise,
    /// A question that is malformed.
    Malformed,
    /// Another operation than asking.
    OtherOperation,
}

impl From<Malformed> for Unreadable {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl Query {
    /// Reads a packet of a client.
    pub fn parse(message: &[u8]) -> Result<Self, Unreadable> {
        let header = Header::read(message).map_err(|_| Unreadable::Noise)?;
        if header.flags & flag::RESPONSE != 0 {
            return Err(Unreadable::Noise);
        }
        if header.flags & flag::OPCODE != 0 {
            return Err(Unreadable::OtherOperation);
        }
        let [1, answers, authorities, _] = header.counts else { return Err(Unreadable::Malformed) };
        let mut reader = Reader::new(message, HEADER);
        let name = Name::read(&mut reader)?;
        let (kind, class) = (reader.u16()?, reader.u16()?);
        let mut edns = None;
        let mut particular = class != IN || answers > 0 || authorities > 0;
        for record in records(message, reader.at, header.counts) {
            let record = record?;
            if record.kind != kind::OPT || record.section != Section::Additional {
                particular = true;
                continue;
            }
            // One, and of the root (RFC 6891 sections 6.1.1 and 6.1.2).
            if edns.is_some() || !record.of_root {
                return Err(Unreadable::Malformed);
            }
            particular |= !record.data.is_empty();
            let [_, version, high, _] = record.ttl.to_be_bytes();
            edns = Some(Edns { payload: record.class, version, dnssec: high & 0x80 != 0 });
        }
        Ok(Self { id: header.id, flags: header.flags, name, kind, class, edns, particular })
    }

    /// How long an answer over UDP may be.
    pub(in crate::dns) fn payload(&self) -> usize {
        // Less than 512 means 512 (RFC 6891 section 6.2.5).
        self.edns.map_or(PLAIN_UDP, |edns| edns.payload.max(PLAIN_UDP)).into()
    }

    /// Where the question ends in the message.
    pub(in crate::dns) fn end(&self) -> usize {
        HEADER + self.name.as_bytes().len() + 4
    }

    /// What an answer depends on.
    pub(in crate::dns) fn key(&self) -> Box<[u8]> {
        let mut key = self.name.lowercase();
        key.extend(self.kind.to_be_bytes());
        key.extend(self.class.to_be_bytes());
        key.extend((self.flags & (flag::RECURSION_DESIRED | flag::SECURITY)).to_be_bytes());
        key.push(self.edns.map_or(0, |edns| 1 + u8::from(edns.dnssec)));
        key.into()
    }
}
