//! Fields as they were received: names keep their case, fields their order, values every byte. What is removed is only
//! marked so, what is added stands after the rest, and all that was not touched is written by copying it.

use std::cell::RefCell;

use http::header::HeaderName;
use httparse::Header;

use crate::http::head::{Fields, Value};

/// The fields of a head, or trailers.
#[derive(Debug)]
pub struct FieldList<'b> {
    received: &'b [u8],
    spare: Spare,
}

/// What a list needs of its own. Lists take it from each other, so that most allocate nothing.
#[derive(Debug, Default)]
struct Spare {
    spans: Vec<Span>,
    added: Vec<u8>,
    /// The [`mark`] of every name there is or was: most names that are asked for are not there, and this tells so at once.
    marks: u64,
}

/// A field: where its line is, and in it its name and value.
#[derive(Debug, Clone, Copy)]
struct Span {
    place: Place,
    start: usize,
    name_end: usize,
    value_start: usize,
    value_end: usize,
    /// After the line's CRLF.
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Received,
    Added,
    Removed,
}

thread_local! {
    static SPARE: RefCell<Vec<Spare>> = const { RefCell::new(Vec::new()) };
}

/// Lists that are alive at once on a thread, at most: a request's, and what its ruling makes.
const SPARES: usize = 4;

impl<'b> FieldList<'b> {
    /// The fields that httparse found in `received`, whose last line ends at `end`.
    pub(super) fn new(received: &'b [u8], headers: &[Header<'b>], end: usize) -> Self {
        let mut list = Self { received, spare: SPARE.with_borrow_mut(Vec::pop).unwrap_or_default() };
        let offset = |part: &[u8]| part.as_ptr().addr().saturating_sub(received.as_ptr().addr());
        for header in headers {
            let start = offset(header.name.as_bytes());
            if let Some(before) = list.spare.spans.last_mut() {
                before.end = start;
            }
            let value_start = offset(header.value);
            list.spare.marks |= mark(header.name.as_bytes());
            list.spare.spans.push(Span {
                place: Place::Received,
                start,
                name_end: start + header.name.len(),
                value_start,
                value_end: value_start + header.value.len(),
                end,
            });
        }
        list
    }

    fn bytes(&self, place: Place) -> &[u8] {
        match place {
            Place::Received => self.received,
            Place::Added => &self.spare.added,
            Place::Removed => &[],
        }
    }

    fn name(&self, span: &Span) -> &[u8] {
        self.bytes(span.place).get(span.start..span.name_end).unwrap_or_default()
    }

    fn value(&self, span: &Span) -> &[u8] {
        self.bytes(span.place).get(span.value_start..span.value_end).unwrap_or_default()
    }

    /// Every field there is: its name and its value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let spans = self.spare.spans.iter().filter(|span| span.place != Place::Removed);
        spans.map(|span| (self.name(span), self.value(span)))
    }

    /// Removes the fields whose name is unwanted.
    pub fn retain(&mut self, wanted: impl Fn(&[u8]) -> bool) {
        self.mark_removed(|list, span| span.place != Place::Removed && !wanted(list.name(span)));
    }

    fn mark_removed(&mut self, unwanted: impl Fn(&Self, &Span) -> bool) {
        for index in 0..self.spare.spans.len() {
            let is_unwanted = self.spare.spans.get(index).is_some_and(|span| unwanted(self, span));
            if let Some(span) = self.spare.spans.get_mut(index).filter(|_| is_unwanted) {
                span.place = Place::Removed;
            }
        }
    }

    /// Whether a name may be there. It surely is not where its mark is not.
    fn may_have(&self, name: &[u8]) -> bool {
        self.spare.marks & mark(name) != 0
    }

    fn is_named(&self, span: &Span, name: &[u8]) -> bool {
        span.name_end - span.start == name.len()
            && span.place != Place::Removed
            && self.name(span).eq_ignore_ascii_case(name)
    }

    /// Writes every field's line.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut run: Option<(Place, usize, usize)> = None;
        for span in &self.spare.spans {
            match &mut run {
                // Lines that stand together are copied together.
                Some((place, _, end)) if *place == span.place && *end == span.start => *end = span.end,
                _ => {
                    self.write_run(run, out);
                    run = Some((span.place, span.start, span.end));
                }
            }
        }
        self.write_run(run, out);
    }

    fn write_run(&self, run: Option<(Place, usize, usize)>, out: &mut Vec<u8>) {
        if let Some((place, start, end)) = run {
            out.extend_from_slice(self.bytes(place).get(start..end).unwrap_or_default());
        }
    }
}

impl Drop for FieldList<'_> {
    fn drop(&mut self) {
        let mut spare = std::mem::take(&mut self.spare);
        spare.spans.clear();
        spare.added.clear();
        spare.marks = 0;
        SPARE.with_borrow_mut(|spares| {
            if spares.len() < SPARES {
                spares.push(spare);
            }
        });
    }
}

impl Fields for FieldList<'_> {
    fn all<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let name = name.as_str().as_bytes();
        let spans = if self.may_have(name) { self.spare.spans.as_slice() } else { &[] };
        spans.iter().filter(move |span| self.is_named(span, name)).map(|span| self.value(span))
    }

    fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().map(|(name, _)| name)
    }

    fn append(&mut self, name: &HeaderName, value: Value<'_>) {
        let value = match value {
            Value::Shared(value) => value.as_bytes(),
            Value::Once(bytes) if is_value(bytes) => bytes,
            Value::Once(_) => return,
        };
        let name = name.as_str().as_bytes();
        self.spare.marks |= mark(name);
        let added = &mut self.spare.added;
        added.reserve(name.len() + value.len() + b": \r\n".len());
        let start = added.len();
        added.extend_from_slice(name);
        let name_end = added.len();
        added.extend_from_slice(b": ");
        let value_start = added.len();
        added.extend_from_slice(value);
        let value_end = added.len();
        added.extend_from_slice(b"\r\n");
        let end = added.len();
        self.spare.spans.push(Span { place: Place::Added, start, name_end, value_start, value_end, end });
    }

    fn remove(&mut self, name: &HeaderName) {
        let name = name.as_str().as_bytes();
        if self.may_have(name) {
            self.mark_removed(|list, span| list.is_named(span, name));
        }
    }
}

/// Whether a field can have it (RFC 9110 section 5.5). Looks at every byte, which is faster than stopping at one.
fn is_value(bytes: &[u8]) -> bool {
    let is_bad = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    !bytes.iter().fold(false, |found, byte| found | is_bad(*byte))
}

/// A bit that names of another length or another first letter mostly do not share.
fn mark(name: &[u8]) -> u64 {
    let first = name.first().map_or(0, u8::to_ascii_lowercase);
    1 << ((name.len() * 7 + usize::from(first)) % 64)
}
