//! Insertions into and cuts out of a YAML or JSON text: what is around them stays as it is.
//!
//! Nothing here needs to be right for every text that YAML allows: whoever edits reads the result again and compares
//! ([`super::manifests`]). So what is hard to place is not placed.

use std::ops::Range;

use serde_json::{Value as Json, json};

use crate::manifest::{Entry, Node, Place, Value, to_yaml};

/// A document's text and where its lines begin.
pub(super) struct Text<'t> {
    text: &'t str,
    lines: Vec<usize>,
}

/// Bytes of a text that are replaced by others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    at: Range<usize>,
    put: String,
}

impl<'t> Text<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let ends =
            text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at.saturating_add(1));
        Self { text, lines: std::iter::once(0).chain(ends).collect() }
    }

    /// The text with its edits carried out; none where two of them meet.
    pub(super) fn edited(&self, mut edits: Vec<Edit>) -> Option<String> {
        edits.sort_by_key(|edit| edit.at.start);
        let (mut out, mut done) = (String::new(), 0);
        for Edit { at, put } in edits {
            out.push_str(self.text.get(done..at.start)?);
            out.push_str(&put);
            done = at.end;
        }
        out.push_str(self.text.get(done..)?);
        Some(out)
    }

    /// Puts items before the others of a list that is there.
    pub(super) fn prepend(&self, list: &Entry, items: &[Json]) -> Option<Edit> {
        let Value::List(present) = &list.value.value else {
            // The key alone: what is below it must stand deeper than what is beside it, or be a list.
            let Value::Null = list.value.value else { return None };
            return Some(self.below(list.place.line, list.place.column, &json!(items)));
        };
        if self.is_at(list.value.place, b'[') {
            return self.inside(list.value.place, &flow_items(items), present.is_empty());
        }
        let dash = self.dash(present.first()?)?;
        let below = self.line_of(dash) > list.place.line;
        below.then(|| self.below(list.place.line, self.column_of(dash), &json!(items)))
    }

    /// Puts an entry before the others of a mapping, which is the value of `parent`.
    pub(super) fn add(&self, parent: &Entry, key: &str, value: &Json) -> Option<Edit> {
        let entry = json!({ key: value });
        match &parent.value.value {
            Value::Map(present) if self.is_at(parent.value.place, b'{') => {
                self.inside(parent.value.place, &format!("{}: {value}", json!(key)), present.is_empty())
            }
            Value::Map(present) => {
                let first = present.first()?.place;
                let below = first.line > parent.place.line;
                below.then(|| self.below(parent.place.line, first.column, &entry))
            }
            Value::Null => Some(self.below(parent.place.line, parent.place.column.saturating_add(2), &entry)),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// Cuts an item out of its list.
    pub(super) fn cut_item(&self, item: &Node) -> Option<Edit> {
        if let Some(dash) = self.dash(item) {
            return self.cut_lines(dash, |line, column| indent(line) > column);
        }
        self.cut_flow(self.offset(item.place)?, item.place)
    }

    /// Cuts an entry out of its mapping.
    pub(super) fn cut_entry(&self, entry: &Entry) -> Option<Edit> {
        let key = self.offset(entry.place)?;
        let is_list = matches!(entry.value.value, Value::List(_));
        // A list's dashes may stand below the key's first letter.
        let block = self.cut_lines(key, |line, column| {
            indent(line) > column || (is_list && indent(line) == column && line.trim_start().starts_with('-'))
        });
        match block {
            Some(edit) if !self.is_at(entry.place, b'"') => Some(edit),
            _ => self.cut_flow(key, entry.value.place),
        }
    }

    /// Lines with a value, below a line and at a column (from 1).
    fn below(&self, line: u32, column: u32, value: &Json) -> Edit {
        let at = self.line_start(line.saturating_add(1));
        let ends = if self.text.contains("\r\n") { "\r\n" } else { "\n" };
        let pad = " ".repeat(usize::try_from(column).unwrap_or_default().saturating_sub(1));
        let yaml = to_yaml(value);
        let lines: Vec<String> = yaml.lines().map(|line| format!("{pad}{line}")).collect();
        let lines = lines.join(ends);
        // The last line of a text need not have an end, and keeps none.
        let has_end = self.text.get(..at).is_some_and(|before| before.ends_with('\n'));
        let put = if has_end { format!("{lines}{ends}") } else { format!("{ends}{lines}") };
        Edit { at: at..at, put }
    }

    /// What comes first within brackets.
    fn inside(&self, bracket: Place, put: &str, empty: bool) -> Option<Edit> {
        let at = self.offset(bracket)?.saturating_add(1);
        let put = if empty { put.to_owned() } else { format!("{put}, ") };
        Some(Edit { at: at..at, put })
    }

    /// Cuts the line of `from` and those that go on with it, where nothing else is on that line.
    fn cut_lines(&self, from: usize, goes_on: impl Fn(&str, usize) -> bool) -> Option<Edit> {
        let line = self.line_of(from);
        let start = self.line_start(line);
        let before = self.text.get(start..from)?;
        if !before.trim().is_empty() {
            return None;
        }
        let column = before.len();
        let mut last = line;
        while let Some(next) = self.line(last.saturating_add(1)) {
            if next.trim().is_empty() || !goes_on(next, column) {
                break;
            }
            last = last.saturating_add(1);
        }
        let end = self.line_start(last.saturating_add(1));
        let kept = self.text.get(..start)?;
        // What had no end on its last line has none again.
        let start = if self.text.ends_with('\n') || end < self.text.len() {
            start
        } else {
            kept.trim_end_matches(['\n', '\r']).len()
        };
        Some(Edit { at: start..end, put: String::new() })
    }

    /// Cuts what stands between commas or brackets, from `from` to the end of the value, with one of the commas.
    fn cut_flow(&self, from: usize, value: Place) -> Option<Edit> {
        let end = flow_end(self.text, self.offset(value)?)?;
        let after = self.text.get(end..)?;
        let gap = after.len().saturating_sub(after.trim_start().len());
        if let Some(rest) = after.trim_start().strip_prefix(',') {
            let space = usize::from(rest.starts_with(' '));
            let end = end.saturating_add(gap).saturating_add(1).saturating_add(space);
            return Some(Edit { at: from..end, put: String::new() });
        }
        let before = self.text.get(..from)?.trim_end();
        let from = before.strip_suffix(',').map_or(from, str::len);
        Some(Edit { at: from..end, put: String::new() })
    }

    /// Where the dash of a block list's item is, on the item's line or above it.
    fn dash(&self, item: &Node) -> Option<usize> {
        let before = self.text.get(..self.offset(item.place)?)?;
        before.trim_end().strip_suffix('-').map(str::len)
    }

    fn is_at(&self, place: Place, byte: u8) -> bool {
        self.offset(place).and_then(|at| self.text.as_bytes().get(at)) == Some(&byte)
    }

    fn offset(&self, place: Place) -> Option<usize> {
        let line = self.line(place.line)?;
        let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
        let within = line.char_indices().nth(column).map(|(at, _)| at);
        Some(self.line_start(place.line).saturating_add(within?))
    }

    fn line(&self, number: u32) -> Option<&'t str> {
        let start = self.line_start(number);
        let line = self.text.get(start..self.line_start(number.saturating_add(1)))?;
        (!line.is_empty()).then_some(line)
    }

    /// Where a line begins, from 1; one behind the last: where the text ends.
    fn line_start(&self, number: u32) -> usize {
        let index = usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
        self.lines.get(index).copied().unwrap_or(self.text.len())
    }

    fn line_of(&self, offset: usize) -> u32 {
        let before = self.lines.partition_point(|start| *start <= offset);
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    fn column_of(&self, offset: usize) -> u32 {
        let start = self.line_start(self.line_of(offset));
        u32::try_from(offset.saturating_sub(start).saturating_add(1)).unwrap_or(u32::MAX)
    }
}

fn flow_items(items: &[Json]) -> String {
    items.iter().map(Json::to_string).collect::<Vec<_>>().join(", ")
}

fn indent(line: &str) -> usize {
    line.len().saturating_sub(line.trim_start_matches(' ').len())
}

/// Where a value of flow style ends that begins at an offset.
fn flow_end(text: &str, from: usize) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_u32, None, false);
    for (at, byte) in text.bytes().enumerate().skip(from) {
        if let Some(quote) = quoted {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quote == b'"' => escaped = true,
                _ if byte == quote => quoted = None,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' | b'\'' => quoted = Some(byte),
            b'{' | b'[' => depth = depth.saturating_add(1),
            b'}' | b']' if depth == 0 => return Some(at),
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(at.saturating_add(1));
                }
            }
            b',' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}
