//! Answers of our own, written.

use super::{Edns, HEADER, Header, IN, Name, OUR_UDP, Query, Rcode, flag, kind, overwrite};

/// The longest message (RFC 1035 section 4.2.2).
const LONGEST: usize = 65_535;

/// Bytes of a record of EDNS without options.
const OPT_LENGTH: usize = 11;

/// Whose a record is.
#[derive(Debug, Clone, Copy)]
pub(in crate::dns) enum Owner<'a> {
    /// The name that stands at this place of the message.
    At(usize),
    /// This one.
    Name(&'a Name),
}

/// An answer being written, section by section in their order.
#[derive(Debug)]
pub(in crate::dns) struct Reply {
    bytes: Vec<u8>,
    counts: [u16; 4],
    rcode: Rcode,
    edns: Option<Edns>,
}

impl Reply {
    /// The answer to `query`, without records so far.
    pub(in crate::dns) fn to(query: &Query, rcode: Rcode) -> Self {
        let kept = query.flags & (flag::RECURSION_DESIRED | 0x0010); // CD is echoed (RFC 4035 section 3.2.2)
        let flags = flag::RESPONSE | flag::RECURSION_AVAILABLE | kept | (rcode.number() & 0xf);
        let mut bytes = Vec::with_capacity(128);
        bytes.extend(query.id.to_be_bytes());
        bytes.extend(flags.to_be_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(query.name.as_bytes());
        bytes.extend(query.kind.to_be_bytes());
        bytes.extend(query.class.to_be_bytes());
        Self { bytes, counts: [1, 0, 0, 0], rcode, edns: query.edns }
    }

    /// Says that these names are ours.
    pub(in crate::dns) fn authoritative(mut self) -> Self {
        if let Some(flags) = self.bytes.get_mut(2) {
            *flags |= flag::AUTHORITATIVE.to_be_bytes()[0];
        }
        self
    }

    /// Whether anything has been answered.
    pub(in crate::dns) fn is_empty(&self) -> bool {
        let [_, answers, ..] = self.counts;
        answers == 0
    }

    /// Adds an answer; returns where its data stand, or nothing where the message is full.
    pub(in crate::dns) fn answer(
        &mut self,
        owner: Owner<'_>,
        kind: u16,
        ttl: u32,
        data: &[u8],
    ) -> Option<usize> {
        self.record(1, owner, kind, ttl, data)
    }

    /// Adds a record to the authorities.
    pub(in crate::dns) fn authority(&mut self, owner: Owner<'_>, kind: u16, ttl: u32, data: &[u8]) {
        self.record(2, owner, kind, ttl, data);
    }

    /// Adds what the asker may want to know as well.
    pub(in crate::dns) fn additional(&mut self, owner: Owner<'_>, kind: u16, ttl: u32, data: &[u8]) {
        self.record(3, owner, kind, ttl, data);
    }

    fn record(
        &mut self,
        section: usize,
        owner: Owner<'_>,
        kind: u16,
        ttl: u32,
        data: &[u8],
    ) -> Option<usize> {
        let mut record = match owner {
            // Two bits say that a place follows, which has fourteen (RFC 1035 section 4.1.4).
            Owner::At(place) => {
                (0xc000 | u16::try_from(place).ok().filter(|at| *at < 0x4000)?).to_be_bytes().to_vec()
            }
            Owner::Name(name) => name.as_bytes().to_vec(),
        };
        let length = u16::try_from(data.len()).ok()?;
        record.extend(kind.to_be_bytes());
        record.extend(IN.to_be_bytes());
        record.extend(ttl.to_be_bytes());
        record.extend(length.to_be_bytes());
        let data_at = self.bytes.len() + record.len();
        record.extend(data);
        if self.bytes.len() + record.len() + OPT_LENGTH > LONGEST {
            return None;
        }
        let count = self.counts.get_mut(section)?;
        *count = count.checked_add(1)?;
        self.bytes.extend(record);
        Some(data_at)
    }

    /// The message. Who speaks EDNS is answered in it (RFC 6891 section 6.1.1).
    pub(in crate::dns) fn finish(mut self) -> Vec<u8> {
        if let Some(edns) = self.edns {
            let [_, rcode] = (self.rcode.number() >> 4).to_be_bytes();
            self.bytes.push(0);
            self.bytes.extend(kind::OPT.to_be_bytes());
            self.bytes.extend(OUR_UDP.to_be_bytes());
            self.bytes.extend([rcode, 0, u8::from(edns.dnssec) << 7, 0, 0, 0]);
            self.counts[3] += 1;
        }
        overwrite(&mut self.bytes, 4, &self.counts.map(u16::to_be_bytes).concat());
        self.bytes
    }
}

/// The answer to a packet that is no readable question: its header, and how it turned out.
pub(in crate::dns) fn bare(message: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = Header::read(message).ok()?;
    let kept = header.flags & (flag::OPCODE | flag::RECURSION_DESIRED);
    let mut bytes = header.id.to_be_bytes().to_vec();
    bytes.extend((flag::RESPONSE | flag::RECURSION_AVAILABLE | kept | (rcode.number() & 0xf)).to_be_bytes());
    bytes.resize(HEADER, 0);
    Some(bytes)
}
