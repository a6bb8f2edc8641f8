//! DNS messages as bytes (RFC 1035 section 4): what is read of a question and of an answer, and how one is written.
//!
//! Nothing here follows a compression pointer, so none can lead in circles. What a message holds besides what we must
//! know stays the bytes it was: records of types that we have never heard of pass.

mod name;
mod query;
mod records;
mod reply;

pub use name::Name;
pub use query::{Edns, Query, Unreadable};
pub(super) use records::addresses;
pub use records::{Answer, fit};
pub(super) use reply::{Owner, Reply, bare};

/// Bytes of a message's header.
pub(super) const HEADER: usize = 12;

/// What a client takes over UDP that says nothing of it (RFC 1035 section 4.2.1).
pub(super) const PLAIN_UDP: u16 = 512;

/// What we say we take over UDP: fits into any link's packets.
const OUR_UDP: u16 = 1232;

/// The bits of a header's flags.
pub(super) mod flag {
    /// This is a response.
    pub(in crate::dns) const RESPONSE: u16 = 0x8000;
    /// The operation; zero is a query.
    pub(in crate::dns) const OPCODE: u16 = 0x7800;
    /// The answer comes from whose names these are.
    pub(in crate::dns) const AUTHORITATIVE: u16 = 0x0400;
    /// More did not fit.
    pub(in crate::dns) const TRUNCATED: u16 = 0x0200;
    /// The asker wants others asked.
    pub(in crate::dns) const RECURSION_DESIRED: u16 = 0x0100;
    /// Others can be asked.
    pub(in crate::dns) const RECURSION_AVAILABLE: u16 = 0x0080;
    /// DNSSEC: authentic data, checking disabled (RFC 4035 section 3.2).
    pub(in crate::dns) const SECURITY: u16 = 0x0030;
}

/// Types of records.
pub(super) mod kind {
    /// An IPv4 address.
    pub(in crate::dns) const A: u16 = 1;
    /// The start of a zone.
    pub(in crate::dns) const SOA: u16 = 6;
    /// The name of an address.
    pub(in crate::dns) const PTR: u16 = 12;
    /// An IPv6 address.
    pub(in crate::dns) const AAAA: u16 = 28;
    /// Host and port of a service (RFC 2782).
    pub(in crate::dns) const SRV: u16 = 33;
    /// How a service is best reached, the latter by HTTP (RFC 9460).
    pub(in crate::dns) const SVCB: u16 = 64;
    /// See [`SVCB`].
    pub(in crate::dns) const HTTPS: u16 = 65;
    /// What EDNS says (RFC 6891).
    pub(in crate::dns) const OPT: u16 = 41;
    /// A zone's changes, and a whole zone: many messages.
    pub(in crate::dns) const IXFR: u16 = 251;
    /// See [`IXFR`].
    pub(in crate::dns) const AXFR: u16 = 252;
    /// Every type.
    pub(in crate::dns) const ANY: u16 = 255;
}

/// The class of everything on the internet.
pub(super) const IN: u16 = 1;

/// How an answer turned out (RFC 1035 section 4.1.1, RFC 6891 section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// Well; there may still be no record of the type asked for.
    NoError,
    /// The question cannot be read.
    FormErr,
    /// It cannot be answered now.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// Nobody here knows how to.
    NotImp,
    /// Not for you.
    Refused,
    /// That version of EDNS is not spoken here.
    BadVers,
    /// One of the rarer ones.
    Other,
}

impl Rcode {
    /// What a header's flags say.
    pub(super) fn of(flags: u16) -> Self {
        match flags & 0xf {
            0 => Self::NoError,
            1 => Self::FormErr,
            2 => Self::ServFail,
            3 => Self::NxDomain,
            4 => Self::NotImp,
            5 => Self::Refused,
            _ => Self::Other,
        }
    }

    /// As a metric's label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::FormErr => "formerr",
            Self::ServFail => "servfail",
            Self::NxDomain => "nxdomain",
            Self::NotImp => "notimp",
            Self::Refused => "refused",
            Self::BadVers => "badvers",
            Self::Other => "other",
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::NoError => 0,
            Self::FormErr => 1,
            Self::ServFail | Self::Other => 2,
            Self::NxDomain => 3,
            Self::NotImp => 4,
            Self::Refused => 5,
            Self::BadVers => 16,
        }
    }
}

/// The bytes end before what they announce, or announce what cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the message is malformed")]
pub struct Malformed;

/// A place in a message.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8], at: usize) -> Self {
        Self { message, at }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(length).ok_or(Malformed)?;
        let taken = self.message.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed)
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.take(2)?.try_into().map(u16::from_be_bytes).map_err(|_| Malformed)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.take(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
    }
}

/// A message's header.
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) id: u16,
    pub(super) flags: u16,
    /// Questions, answers, authorities, additional records.
    pub(super) counts: [u16; 4],
}

impl Header {
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message, 0);
        let (id, flags) = (reader.u16()?, reader.u16()?);
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        Ok(Self { id, flags, counts })
    }
}

/// Writes bytes over those of a message; outside of it nothing happens.
pub(super) fn overwrite(message: &mut [u8], at: usize, with: &[u8]) {
    if let Some(place) = at.checked_add(with.len()).and_then(|end| message.get_mut(at..end)) {
        place.copy_from_slice(with);
    }
}
