//! Text -> node trees: YAML 1.2 with its core schema, less what JSON cannot say.
//!
//! A syntax error ends its document, not the file, so that all mistakes are reported at once. Size, depth and the expansion of aliases are bounded.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};
use serde_json::Number;

use super::decode::Sink;
use super::node::{Entry, Node, Place, Value};

/// The longest file that is read, in bytes.
pub(super) const MAX_BYTES: usize = 4 << 20;
/// How deep lists and mappings may nest.
pub(super) const MAX_DEPTH: usize = 64;
/// How much a file may hold with its aliases expanded: a value counts one, a text also its bytes.
pub(super) const MAX_WEIGHT: usize = 2 * MAX_BYTES;

/// Whose documents are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Our own language: nothing in it may have a meaning that is not carried out.
    Ours,
    /// Somebody's manifests: merge keys stay keys, tags say nothing.
    Foreign,
}

/// Every document of the text that could be read; what could not is told to the sink.
pub(crate) fn documents(text: &str, dialect: Dialect, sink: &Sink<'_>) -> Vec<Node> {
    let mut documents = Vec::new();
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes, and {MAX_BYTES} is the most that is read", text.len());
        sink.mistake(Place { line: 1, column: 1 }, message, "split it into several files");
        return documents;
    }
    let mut weight = 0;
    for (text, lines_before) in split(text) {
        let parser = Parser::new_from_str(text);
        let mut loader = Loader { parser, dialect, sink, lines_before, anchors: HashMap::new(), weight };
        if let Err(Stop { place, message, hint }) = loader.load(&mut documents) {
            sink.mistake(place, message, hint);
        }
        weight = loader.weight;
    }
    documents
}

/// The text in pieces of one document each, with how many lines are before it.
///
/// `---` and `...` at a line's beginning are markers wherever they stand (YAML 1.2.2, 9.1.2), also within
/// quotes or brackets that were never closed.
pub(crate) fn split(text: &str) -> Vec<(&str, u32)> {
    let mut pieces = Vec::new();
    let (mut rest, mut lines_before) = (text, 0_u32);
    // How far the piece reaches, in bytes and lines, and whether only directives and comments are in it.
    let (mut bytes, mut lines, mut prologue) = (0_usize, 0_u32, true);
    for line in text.split_inclusive('\n') {
        let begins = is_marker(line, "---");
        let ends = is_marker(line, "...");
        if begins && !prologue {
            cut(&mut pieces, &mut rest, &mut lines_before, (bytes, lines));
            (bytes, lines) = (0, 0);
        }
        bytes = bytes.saturating_add(line.len());
        lines = lines.saturating_add(1);
        prologue &= line.trim().is_empty() || line.starts_with(['%', '#']);
        if ends {
            cut(&mut pieces, &mut rest, &mut lines_before, (bytes, lines));
            (bytes, lines, prologue) = (0, 0, true);
        }
    }
    pieces.push((rest, lines_before));
    pieces
}

fn cut<'t>(
    pieces: &mut Vec<(&'t str, u32)>,
    rest: &mut &'t str,
    lines_before: &mut u32,
    (bytes, lines): (usize, u32),
) {
    let Some((piece, after)) = rest.split_at_checked(bytes) else { return };
    pieces.push((piece, *lines_before));
    *lines_before = lines_before.saturating_add(lines);
    *rest = after;
}

fn is_marker(line: &str, marker: &str) -> bool {
    let rest = line.strip_prefix(marker);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Why the rest of a document cannot be read.
struct Stop {
    place: Place,
    message: String,
    hint: &'static str,
}

struct Loader<'t, 's> {
    parser: Parser<'t, StrInput<'t>>,
    dialect: Dialect,
    sink: &'s Sink<'s>,
    lines_before: u32,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

impl<'t> Loader<'t, '_> {
    fn load(&mut self, documents: &mut Vec<Node>) -> Result<(), Stop> {
        loop {
            match self.next()? {
                (Event::DocumentStart(_), _) => {
                    self.anchors.clear();
                    let (event, span) = self.next()?;
                    if let (Event::DocumentEnd, _) = (&event, &span) {
                        continue;
                    }
                    let node = self.node(event, span, 0)?;
                    if node.value != Value::Null {
                        documents.push(node);
                    }
                }
                (Event::StreamEnd, _) => return Ok(()),
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Span), Stop> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node, Stop> {
        let place = self.place(span.start);
        if depth > MAX_DEPTH {
            return Err(Stop {
                place,
                message: format!("nested deeper than {MAX_DEPTH} levels"),
                hint: "no resource needs that",
            });
        }
        self.count(place, 1)?;
        let (anchor, value) = match event {
            Event::Alias(id) => return self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => {
                self.count(place, text.len())?;
                (anchor, self.scalar(&text, style, tag.as_deref(), place))
            }
            Event::SequenceStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", place);
                (anchor, self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", place);
                (anchor, self.map(depth)?)
            }
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, Value::Null),
        };
        let node = Node { place, value };
        if anchor != 0 {
            self.count(place, node.weight())?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd | Event::StreamEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, depth.saturating_add(1))?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Value, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut known: HashMap<String, Place> = HashMap::new();
        loop {
            let (event, span) = self.next()?;
            let place = self.place(span.start);
            let key = match event {
                Event::MappingEnd | Event::StreamEnd => return Ok(Value::Map(entries)),
                Event::Scalar(text, style, _, _) => {
                    self.count(place, text.len())?;
                    self.key(&text, style, place)
                }
                other => {
                    self.node(other, span, depth.saturating_add(1))?;
                    self.sink.mistake(place, "a key must be a text", "write it as KEY: VALUE");
                    None
                }
            };
            let (event, span) = self.next()?;
            let value = self.node(event, span, depth.saturating_add(1))?;
            let Some(key) = key else { continue };
            if let Some(first) = known.get(&key) {
                let message = format!("the key {key:?} is there twice, first at line {}", first.line);
                self.sink.mistake(place, message, "keep one of them");
                continue;
            }
            known.insert(key.clone(), place);
            entries.push(Entry { key, place, value });
        }
    }

    fn key(&self, text: &str, style: ScalarStyle, place: Place) -> Option<String> {
        if style == ScalarStyle::Plain && self.dialect == Dialect::Ours {
            if text == "<<" {
                self.sink.mistake(place, "merge keys (<<) are not read", "write the fields out");
                return None;
            }
            if plain(text) == Some(Value::Null) {
                self.sink.mistake(place, "a key must be a text, found nothing", "write it as KEY: VALUE");
                return None;
            }
        }
        Some(text.to_owned())
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<Node, Stop> {
        let Some(node) = self.anchors.get(&id) else {
            self.sink.mistake(place, "an alias of something that holds the alias", "write the value out");
            return Ok(Node { place, value: Value::Null });
        };
        let node = Node { place, value: node.value.clone() };
        self.count(place, node.weight())?;
        Ok(node)
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Value {
        let Some(tag) = tag else {
            let value = if style == ScalarStyle::Plain { plain(text) } else { None };
            if style == ScalarStyle::Plain && value.is_none() && is_not_finite(text) {
                self.sink.mistake(place, format!("{text} is no number that JSON knows"), "quote it");
            }
            return value.unwrap_or_else(|| Value::Text(text.to_owned()));
        };
        let typed = match tag.suffix.as_str() {
            "str" if tag.is_yaml_core_schema() => Some(Value::Text(text.to_owned())),
            "" | "!" if tag.handle.is_empty() || tag.handle == "!" => Some(Value::Text(text.to_owned())),
            "null" if tag.is_yaml_core_schema() => plain(text).filter(|value| *value == Value::Null),
            "bool" if tag.is_yaml_core_schema() => {
                plain(text).filter(|value| matches!(value, Value::Bool(_)))
            }
            "int" | "float" if tag.is_yaml_core_schema() => {
                plain(text).filter(|value| matches!(value, Value::Number(_)))
            }
            _ => None,
        };
        typed.unwrap_or_else(|| {
            self.refuse_tag(tag, place);
            Value::Text(text.to_owned())
        })
    }

    fn check_tag(&self, tag: Option<&Tag>, expected: &str, place: Place) {
        let Some(tag) = tag else { return };
        let plain = tag.handle == "!" && tag.suffix.is_empty();
        let known = tag.is_yaml_core_schema() && tag.suffix == expected;
        if !plain && !known {
            self.refuse_tag(tag, place);
        }
    }

    fn refuse_tag(&self, tag: &Tag, place: Place) {
        if self.dialect == Dialect::Ours {
            let message = format!("the tag {} cannot be read here", spelt(tag));
            self.sink.mistake(place, message, "leave the tag out");
        }
    }

    fn count(&mut self, place: Place, weight: usize) -> Result<(), Stop> {
        self.weight = self.weight.saturating_add(weight);
        if self.weight <= MAX_WEIGHT {
            return Ok(());
        }
        let message = format!("the file holds more than {MAX_WEIGHT} bytes with its aliases expanded");
        Err(Stop { place, message, hint: "write less, or split it into several files" })
    }

    fn place(&self, marker: Marker) -> Place {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Place {
            line: number(marker.line()).saturating_add(self.lines_before),
            column: number(marker.col()).saturating_add(1),
        }
    }

    fn syntax(&self, error: &ScanError) -> Stop {
        let hint = match error.info() {
            info if info.contains("tab") => "indent with spaces",
            info if info.contains("anchor") => "define &NAME before *NAME, in the same document",
            _ => "check indentation, quotes and brackets here and just above",
        };
        Stop {
            place: self.place(*error.marker()),
            message: format!("this is not YAML: {}", error.info()),
            hint,
        }
    }
}

/// A plain scalar's value by the core schema (YAML 1.2.2, 10.3.2); none: it is a text.
pub(super) fn plain(text: &str) -> Option<Value> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Some(Value::Null),
        "true" | "True" | "TRUE" => return Some(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Some(Value::Bool(false)),
        _ => {}
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(digits, 8);
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(digits, 16);
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let positive = text.strip_prefix('+').unwrap_or(text);
        let whole = positive.parse::<u64>().map(Number::from).ok();
        let whole = whole.or_else(|| positive.parse::<i64>().map(Number::from).ok());
        return whole.or_else(|| Number::from_f64(positive.parse().ok()?)).map(Value::Number);
    }
    is_float(unsigned).then(|| Number::from_f64(text.parse().ok()?).map(Value::Number)).flatten()
}

fn radix(digits: &str, radix: u32) -> Option<Value> {
    if digits.starts_with('+') {
        return None;
    }
    u64::from_str_radix(digits, radix).ok().map(|number| Value::Number(number.into()))
}

/// `(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['-', '+']).unwrap_or(exponent))),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent_ok = exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    exponent_ok && digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

/// A tag as documents spell it.
fn spelt(tag: &Tag) -> String {
    if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() }
}

fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF" | ".nan" | ".NaN" | ".NAN")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<serde_json::Value>, Vec<String>) {
        let sink = Sink::new("f");
        let documents = documents(text, Dialect::Ours, &sink).iter().map(Node::to_json).collect();
        let (problems, _) = sink.into_parts();
        (documents, problems.iter().map(ToString::to_string).collect())
    }

    fn check(text: &str, json: &str) {
        let (documents, problems) = read(text);
        assert_eq!(problems, Vec::<String>::new(), "{text}");
        assert_eq!(serde_json::Value::Array(documents).to_string(), json, "{text}");
    }

    fn check_problem(text: &str, expected: &str) {
        let (_, problems) = read(text);
        assert!(problems.iter().any(|p| p.starts_with(expected)), "{text}: {problems:?}");
    }

    #[test]
    fn scalars_have_the_types_of_the_core_schema() {
        check("[~, null, Null, true, FALSE, yes]", r#"[[null,null,null,true,false,"yes"]]"#);
        check("[1, -2, +3, 0o17, 0x1F, 007]", "[[1,-2,3,15,31,7]]");
        check("[1.5, .5, 1., 1e3, -2E-1]", "[[1.5,0.5,1.0,1000.0,-0.2]]");
        check(
            "[18446744073709551615, -9223372036854775808]",
            "[[18446744073709551615,-9223372036854775808]]",
        );
        check(
            "[1_000, 0b1, 12:30, 1.2.3, e3, ., 0x, 0o8, 0x+1]",
            r#"[["1_000","0b1","12:30","1.2.3","e3",".","0x","0o8","0x+1"]]"#,
        );
        check("['1', \"true\", !!str 5, ! 5, !!int 7]", r#"[["1","true","5","5",7]]"#);
        check("a: |\n  x\n  y\nb: >-\n  x\n  y\n", r#"[{"a":"x\ny\n","b":"x y"}]"#);
    }

    #[test]
    fn documents_are_separate_and_empty_ones_skipped() {
        check("---\na: 1\n---\n---\n# nothing\n---\nb: 2\n...\n", r#"[{"a":1},{"b":2}]"#);
        check("%YAML 1.2\n# about\n\n---\na: 1\n...\n%YAML 1.2\n---\nb: 2\n", r#"[{"a":1},{"b":2}]"#);
        check("--- a\n---\tb\n--- # c\nd\n---e", r#"["a","b","d ---e"]"#);
        check("", "[]");
        check("\u{feff}a: 1\r\nb: 2\r\n", r#"[{"a":1,"b":2}]"#);
        check(r#"{"a": [1, {"b": null}]}"#, r#"[{"a":[1,{"b":null}]}]"#);
    }

    #[test]
    fn aliases_are_expanded() {
        check("a: &x {k: 1}\nb: *x\n", r#"[{"a":{"k":1},"b":{"k":1}}]"#);
        check_problem("a: &x [*x]", "f:1:8: an alias of something that holds the alias");
        check_problem("a: *nobody", "f:1:");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut bomb = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for level in 1..30 {
            let before = format!("*a{}", level - 1);
            bomb += &format!("a{level}: &a{level} [{}]\n", [before.as_str(); 9].join(", "));
        }
        check_problem(&bomb, "f:");
        assert!(read(&bomb).1[0].contains("with its aliases expanded"));
    }

    #[test]
    fn depth_and_size_are_bounded() {
        check_problem(&("[".repeat(80) + &"]".repeat(80)), "f:1:66: nested deeper than 64 levels");
        let deep: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        check_problem(&deep, "f:66:66: nested deeper than 64 levels");
        check_problem(&" ".repeat(MAX_BYTES + 1), "f:1:1: the file has");
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused() {
        check_problem("a: 1\nb: 2\na: 3\n", "f:3:1: the key \"a\" is there twice, first at line 1");
        check_problem("<<: {a: 1}", "f:1:1: merge keys");
        check_problem("? [a]\n: 1\n", "f:1:3: a key must be a text");
        check_problem("~: 1\n", "f:1:1: a key must be a text");
    }

    #[test]
    fn a_syntax_error_does_not_hide_the_documents_behind_it() {
        let text = "a: 1\n---\nb: [1, 2\n---\nc: 'x\n---\nd: 4\ne: {f: }}\n---\ng: 5\n";
        let (documents, problems) = read(text);
        assert_eq!(serde_json::Value::Array(documents).to_string(), r#"[{"a":1},{"g":5}]"#);
        let lines: Vec<_> = problems.iter().map(|problem| problem.split(": ").next().unwrap()).collect();
        assert_eq!(lines, ["f:4:1", "f:5:4", "f:8:9"], "{problems:?}");
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        check_problem("a: .inf", "f:1:4: .inf is no number");
        check_problem("a: !!binary aGk=", "f:1:4: the tag !!binary");
        check_problem("a: !mine {b: 1}", "f:1:");
    }
}
