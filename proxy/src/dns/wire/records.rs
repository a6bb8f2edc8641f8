//! The records of a message, walked without being understood; what an answer says of its lifetime; and what is cut off
//! one that is too long.

use std::net::IpAddr;

use super::{HEADER, Header, IN, Malformed, Name, Query, Rcode, Reader, flag, kind, overwrite};

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) enum Section {
    Answer,
    Authority,
    Additional,
}

/// A record.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) section: Section,
    pub(super) kind: u16,
    pub(super) class: u16,
    pub(super) ttl: u32,
    /// Whether its name is the empty one.
    pub(super) of_root: bool,
    pub(super) data: &'a [u8],
    start: usize,
    ttl_at: usize,
    end: usize,
}

/// The records that follow the question, which ends at `at`.
pub(super) fn records(
    message: &[u8],
    at: usize,
    [_, answers, authorities, additional]: [u16; 4],
) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    let sections = std::iter::repeat_n(Section::Answer, answers.into())
        .chain(std::iter::repeat_n(Section::Authority, authorities.into()))
        .chain(std::iter::repeat_n(Section::Additional, additional.into()));
    let mut reader = Reader::new(message, at);
    let mut broken = false;
    sections.map_while(move |section| {
        if broken {
            return None;
        }
        let record = read(&mut reader, section);
        broken = record.is_err();
        Some(record)
    })
}

fn read<'a>(reader: &mut Reader<'a>, section: Section) -> Result<Record<'a>, Malformed> {
    let start = reader.at;
    Name::skip(reader)?;
    let of_root = reader.at == start + 1;
    let (kind, class) = (reader.u16()?, reader.u16()?);
    let ttl_at = reader.at;
    let ttl = reader.u32()?;
    let length = reader.u16()?;
    let data = reader.take(length.into())?;
    Ok(Record { section, kind, class, ttl, of_root, data, start, ttl_at, end: reader.at })
}

/// The addresses that an answer gives, each with how many seconds it holds; the question ends at `at`.
pub(in crate::dns) fn addresses(message: &[u8], at: usize) -> Vec<(IpAddr, u32)> {
    let Ok(header) = Header::read(message) else { return Vec::new() };
    let answers = records(message, at, header.counts).map_while(Result::ok);
    let answers = answers.filter(|record| record.section == Section::Answer && record.class == IN);
    let address = |record: Record<'_>| {
        let ip = match record.kind {
            kind::A => IpAddr::from(<[u8; 4]>::try_from(record.data).ok()?),
            kind::AAAA => IpAddr::from(<[u8; 16]>::try_from(record.data).ok()?),
            _ => return None,
        };
        // With the highest bit set it is zero (RFC 2181 section 8).
        Some((ip, if record.ttl >> 31 == 0 { record.ttl } else { 0 }))
    };
    answers.filter_map(address).collect()
}

/// An answer to a question, read as far as it takes to keep it for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub(in crate::dns) rcode: Rcode,
    pub(in crate::dns) truncated: bool,
    /// How many seconds it holds; none: not at all.
    pub(in crate::dns) lifetime: Option<u32>,
    /// Where its times to live stand.
    pub(in crate::dns) ttls: Box<[u16]>,
}

impl Answer {
    /// Reads the answer to `query`; what answers another question, or none, is malformed.
    pub fn parse(message: &[u8], query: &Query) -> Result<Self, Malformed> {
        let header = Header::read(message)?;
        let rcode = Rcode::of(header.flags);
        let truncated = header.flags & flag::TRUNCATED != 0;
        let mut answer = Self { rcode, truncated, lifetime: None, ttls: Box::default() };
        if header.flags & flag::RESPONSE == 0 || header.flags & flag::OPCODE != 0 {
            return Err(Malformed);
        }
        let [questions, ..] = header.counts;
        if questions == 0 {
            // Some servers do not repeat a question that they do not want to answer.
            let refusal = !matches!(rcode, Rcode::NoError | Rcode::NxDomain);
            return if refusal { Ok(answer) } else { Err(Malformed) };
        }
        let mut reader = Reader::new(message, HEADER);
        let same = Name::read(&mut reader)?.as_bytes().eq_ignore_ascii_case(query.name.as_bytes());
        if questions != 1 || !same || (reader.u16()?, reader.u16()?) != (query.kind, query.class) {
            return Err(Malformed);
        }
        let walked = answer.walk(message, reader.at, header.counts, query.kind);
        // Where something was cut off, it may have been cut off anywhere.
        if walked.is_err() && truncated { Ok(answer) } else { walked.map(|()| answer) }
    }

    /// Reads what answers something else than a question: how it turned out, no more.
    pub(in crate::dns) fn of_other_operation(message: &[u8]) -> Result<Self, Malformed> {
        let flags = Header::read(message)?.flags;
        let truncated = flags & flag::TRUNCATED != 0;
        let answer = Self { rcode: Rcode::of(flags), truncated, lifetime: None, ttls: Box::default() };
        if flags & flag::RESPONSE == 0 { Err(Malformed) } else { Ok(answer) }
    }

    fn walk(&mut self, message: &[u8], at: usize, counts: [u16; 4], asked: u16) -> Result<(), Malformed> {
        let mut shortest = u32::MAX;
        let (mut found, mut start_of_zone, mut extended) = (false, None, false);
        let mut ttls = Vec::new();
        for record in records(message, at, counts) {
            let record = record?;
            if record.kind == kind::OPT {
                extended |= record.ttl >> 24 != 0;
                continue;
            }
            // With the highest bit set it is zero (RFC 2181 section 8).
            let ttl = if record.ttl >> 31 == 0 { record.ttl } else { 0 };
            shortest = shortest.min(ttl);
            if let Ok(at) = u16::try_from(record.ttl_at) {
                ttls.push(at);
            }
            found |= record.section == Section::Answer && (record.kind == asked || asked == kind::ANY);
            if record.section == Section::Authority && record.kind == kind::SOA {
                let minimum = record.data.last_chunk::<4>().ok_or(Malformed)?;
                start_of_zone = Some(u32::from_be_bytes(*minimum));
            }
        }
        self.ttls = ttls.into();
        let lifetime = match self.rcode {
            Rcode::NoError if found => Some(shortest),
            // That there is nothing holds for as long as the zone says, and not at all where it does not say
            // (RFC 2308 section 5).
            Rcode::NoError | Rcode::NxDomain => start_of_zone.map(|minimum| shortest.min(minimum)),
            _ => None,
        };
        self.lifetime = lifetime.filter(|seconds| *seconds > 0 && !extended && !self.truncated);
        Ok(())
    }
}

/// A message that is at most `limit` long. Where answers had to go the rest is marked as truncated, with as many whole
/// ones left as fit, for clients that make do with those; additional records may go without a word (RFC 2181 section 9).
pub fn fit(mut message: Vec<u8>, limit: usize, question_end: usize) -> Vec<u8> {
    if message.len() <= limit {
        return message;
    }
    let Ok(header) = Header::read(&message) else { return Vec::new() };
    let [questions, mut answers, mut authorities, _] = header.counts;
    let mut opt = Vec::new();
    let mut ends = Vec::new();
    for record in records(&message, question_end, header.counts) {
        let Ok(record) = record else { break };
        if record.kind == kind::OPT {
            opt = message.get(record.start..record.end).unwrap_or_default().to_vec();
        } else if record.section < Section::Additional {
            ends.push(record.end);
        }
    }
    let room = limit.saturating_sub(opt.len());
    let kept = ends.iter().take_while(|end| **end <= room).count();
    let needed = usize::from(answers) + usize::from(authorities);
    let mut flags = header.flags;
    if kept < needed {
        flags |= flag::TRUNCATED;
        answers = answers.min(u16::try_from(kept).unwrap_or(u16::MAX));
        authorities = 0;
    }
    let whole = usize::from(answers) + usize::from(authorities);
    let end = whole.checked_sub(1).and_then(|last| ends.get(last)).copied().unwrap_or(question_end);
    message.truncate(end);
    message.extend_from_slice(&opt);
    overwrite(&mut message, 2, &flags.to_be_bytes());
    let counts = [questions, answers, authorities, u16::from(!opt.is_empty())];
    overwrite(&mut message, 4, &counts.map(u16::to_be_bytes).concat());
    message
}
