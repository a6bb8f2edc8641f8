//! Walks a node tree and reports every mistake with its place, its path and what to do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::node::{Node, Place, Value};
use super::suggest::nearest;
use super::value::parse_duration;
use super::{Note, Problem};
use crate::model::Ratio;

/// How a duration is written.
const DURATION: &str = "write a duration such as 250ms, 10s or 1h30m";

/// The most mistakes that one file is told of.
const MAX_PROBLEMS: usize = 1000;

/// Where a file's mistakes and notes go.
pub(crate) struct Sink<'f> {
    file: &'f str,
    problems: RefCell<Vec<Problem>>,
    notes: RefCell<Vec<Note>>,
}

impl<'f> Sink<'f> {
    pub(crate) fn new(file: &'f str) -> Self {
        Self { file, problems: RefCell::default(), notes: RefCell::default() }
    }

    pub(super) fn file(&self) -> &'f str {
        self.file
    }

    pub(crate) fn mistake(&self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            let Place { line, column } = place;
            let (message, hint) = (message.into(), hint.into());
            problems.push(Problem { file: self.file.to_owned(), line, column, message, hint });
        }
    }

    pub(super) fn note(&self, place: Place, message: impl Into<String>) {
        let note = Note { file: self.file.to_owned(), line: place.line, message: message.into() };
        self.notes.borrow_mut().push(note);
    }

    /// What was reported, in the order of the file.
    pub(crate) fn into_parts(self) -> (Vec<Problem>, Vec<Note>) {
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        (problems, self.notes.into_inner())
    }
}

/// A value in a document: its node, its path for messages, and where mistakes go.
#[derive(Clone)]
pub(super) struct Field<'a> {
    node: &'a Node,
    path: String,
    sink: &'a Sink<'a>,
}

/// A mapping whose keys are known to be allowed.
pub(super) struct Object<'a> {
    at: Field<'a>,
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node, sink: &'a Sink<'a>) -> Self {
        Self { node, path: String::new(), sink }
    }

    /// The node itself.
    pub(super) fn node(&self) -> &'a Node {
        self.node
    }

    pub(super) fn place(&self) -> Place {
        self.node.place
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Reports what is wrong here, and what to do.
    pub(super) fn mistake(&self, message: impl Display, hint: impl Into<String>) {
        let message =
            if self.path.is_empty() { message.to_string() } else { format!("{}: {message}", self.path) };
        self.sink.mistake(self.node.place, message, hint);
    }

    /// Tells what is as it should be, but may surprise.
    pub(super) fn note(&self, message: impl Display) {
        self.sink.note(self.node.place, format!("{}: {message}", self.path));
    }

    fn expected(&self, what: &str, hint: &str) {
        self.mistake(format!("expected {what}, found {}", self.node.value), hint);
    }

    /// The value of a key, where this is a mapping that has it.
    pub(super) fn at(&self, key: &str) -> Option<Self> {
        let node = self.node.get(key)?;
        Some(Self { node, path: self.child(key), sink: self.sink })
    }

    /// A mapping with these keys and no others.
    pub(super) fn object(&self, allowed: &[&str]) -> Option<Object<'a>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a mapping", &format!("its fields are {}", allowed.join(", ")));
            return None;
        };
        for entry in entries {
            if !allowed.contains(&entry.key.as_str()) {
                let hint = match nearest(&entry.key, allowed.iter().copied()) {
                    Some(near) => format!("did you mean {near:?}?"),
                    None if allowed.is_empty() => "leave it out".to_owned(),
                    None => format!("known here: {}", allowed.join(", ")),
                };
                self.sink.mistake(entry.place, format!("unknown field {:?}", self.child(&entry.key)), hint);
            }
        }
        Some(Object { at: self.clone() })
    }

    /// A mapping of any keys.
    pub(super) fn entries(&self) -> Option<Vec<(&'a str, Self)>> {
        let Value::Map(entries) = &self.node.value else {
            self.expected("a mapping", "write KEY: VALUE");
            return None;
        };
        let entry = |entry: &'a super::node::Entry| {
            let path = format!("{}[{:?}]", self.path, entry.key);
            (entry.key.as_str(), Field { node: &entry.value, path, sink: self.sink })
        };
        Some(entries.iter().map(entry).collect())
    }

    /// The members of a list.
    pub(super) fn list(&self) -> Option<Vec<Self>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list", "write its members each on a line of its own, behind \"- \"");
            return None;
        };
        let field = |(index, node)| Field { node, path: format!("{}[{index}]", self.path), sink: self.sink };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// Any text.
    pub(super) fn text(&self) -> Option<&'a str> {
        if let Value::Text(text) = &self.node.value {
            return Some(text);
        }
        let hint = match &self.node.value {
            Value::Bool(value) => format!("quote it: \"{value}\""),
            Value::Number(number) => format!("quote it: \"{number}\""),
            Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => "write a text here".to_owned(),
        };
        self.expected("a text", &hint);
        None
    }

    /// A text of a form of its own, such as a name or an address.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self, hint: &str) -> Option<T> {
        match self.text()?.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(error, hint);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn bool(&self) -> Option<bool> {
        if let Value::Bool(value) = self.node.value {
            return Some(value);
        }
        self.expected("true or false", "write true or false, without quotes");
        None
    }

    /// A whole number within a range.
    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let Value::Number(number) = &self.node.value else {
            self.expected("a number", &format!("write a number from {} to {}", range.start(), range.end()));
            return None;
        };
        let value = number.as_u64().and_then(|value| u32::try_from(value).ok());
        if let Some(value) = value.filter(|value| range.contains(value)) {
            return Some(value);
        }
        let message = format!("{number} is not a whole number from {} to {}", range.start(), range.end());
        self.mistake(message, "write a number within the range");
        None
    }

    /// A port.
    pub(super) fn port(&self) -> Option<u16> {
        self.integer(1..=65535).and_then(|port| u16::try_from(port).ok())
    }

    /// A duration that is not zero.
    pub(super) fn duration(&self) -> Option<Duration> {
        let duration = self.duration_or_none()?;
        if duration.is_zero() {
            self.mistake("must be longer than nothing", DURATION);
        }
        (!duration.is_zero()).then_some(duration)
    }

    /// A duration; zero stands for none.
    pub(super) fn duration_or_none(&self) -> Option<Duration> {
        let text = self.spelling().or_else(|| self.text().map(str::to_owned))?;
        parse_duration(&text).inspect_err(|error| self.mistake(error, DURATION)).ok()
    }

    /// A share of a whole: `0.2` or `20%`.
    pub(super) fn ratio(&self) -> Option<Ratio> {
        let hint = "write 0.2 or 20%";
        match self.spelling() {
            Some(text) => match text.parse() {
                Ok(ratio) => return Some(ratio),
                Err(error) => self.mistake(error, hint),
            },
            None => self.expected("a ratio", hint),
        }
        None
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let listed = words().collect::<Vec<_>>().join(", ");
        let hint = nearest(text, words())
            .map_or_else(|| format!("write one of {listed}"), |near| format!("did you mean {near:?}?"));
        self.mistake(format!("{text:?} is not one of {listed}"), hint);
        None
    }

    /// A mapping of texts to texts, each looked at by `check` as well.
    pub(super) fn texts(&self, check: impl Fn(&str, &Self)) -> Option<BTreeMap<String, String>> {
        let mut texts = BTreeMap::new();
        for (key, field) in self.entries()? {
            check(key, &field);
            texts.extend(field.text().map(|text| (key.to_owned(), text.to_owned())));
        }
        Some(texts)
    }

    /// A number's or text's own spelling, where it is one.
    pub(super) fn spelling(&self) -> Option<String> {
        match &self.node.value {
            Value::Text(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::Null | Value::Bool(_) | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// Whether a number stands here.
    pub(super) fn is_number(&self) -> bool {
        matches!(self.node.value, Value::Number(_))
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'a> Object<'a> {
    /// A field, where it is there and not null.
    pub(super) fn field(&self, key: &str) -> Option<Field<'a>> {
        self.at.at(key).filter(|field| field.node.value != Value::Null)
    }

    /// A field that must be there.
    pub(super) fn required(&self, key: &str, hint: &str) -> Option<Field<'a>> {
        let field = self.field(key);
        if field.is_none() {
            self.at.sink.mistake(self.at.node.place, format!("{:?} is missing", self.at.child(key)), hint);
        }
        field
    }
}
