//! The only place that prints: lists and objects as aligned tables, JSON or YAML.

mod table;
mod yaml;

use std::io::{self, IsTerminal, Write};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;

pub(crate) use table::{align, align_or_fold, align_within, paragraph, shorten};

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    #[default]
    Table,
    // More columns.
    Wide,
    Json,
    Yaml,
}

/// One line of a table, and one object of a JSON list.
pub(crate) trait Row: Serialize {
    /// Titles of the columns.
    const COLUMNS: &'static [&'static str];
    /// How many of the columns, the last ones, only `-o wide` shows.
    const WIDE_ONLY: usize = 0;
    /// What the list is of, for the message that it is empty.
    const PLURAL: &'static str;

    /// One cell for each column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list.
pub(crate) fn list<R: Row>(format: Format, rows: &[R]) -> anyhow::Result<()> {
    if rows.is_empty() && matches!(format, Format::Table | Format::Wide) {
        return note(&format!("no {}", R::PLURAL));
    }
    print(&render_list(format, rows)?)
}

/// A list as a table, or what stands in for an empty one.
pub(crate) fn table<R: Row>(format: Format, rows: &[R]) -> anyhow::Result<String> {
    if rows.is_empty() { Ok(format!("no {}\n", R::PLURAL)) } else { render_list(format, rows) }
}

/// Draws a text in the place of all that the terminal shows.
pub(crate) fn draw(text: &str) -> anyhow::Result<()> {
    let width = width();
    let lines = text.lines().map(|line| line.chars().take(width).collect::<String>() + "\n");
    print(&format!("\u{1b}[H\u{1b}[2J{}", lines.collect::<String>()))
}

/// A text that came from elsewhere, so that it does nothing to a terminal and stays on its line.
pub(crate) fn harmless(text: &str) -> String {
    // Marks that turn the direction of writing can make a line say something else.
    let is_harmful =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if is_harmful(c) {
            shown.extend(c.escape_default())
        } else {
            shown.push(c)
        }
        shown
    })
}

/// Whether somebody still reads what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    Gone,
}

/// Prints a part of what goes on for ever, as long as somebody reads it.
pub(crate) fn stream(text: &str) -> anyhow::Result<Reader> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(error).context("writing to standard output"),
    }
}

/// One of several documents of YAML.
pub(crate) fn yaml_document(value: &Value) -> String {
    format!("---\n{}", yaml::render(value))
}

fn render_list<R: Row>(format: Format, rows: &[R]) -> anyhow::Result<String> {
    let shown = match format {
        Format::Table => R::COLUMNS.len() - R::WIDE_ONLY,
        Format::Wide => R::COLUMNS.len(),
        Format::Json | Format::Yaml => return render(format, &serde_json::to_value(rows)?),
    };
    let header = R::COLUMNS.iter().take(shown).map(|&title| title.to_owned()).collect();
    let cells = rows.iter().map(|row| row.cells().into_iter().take(shown).collect());
    let room = (format == Format::Table).then(room).flatten();
    Ok(align_within(room, std::iter::once(header).chain(cells)))
}

/// Prints an object, or, as a table, the text that stands for it.
pub(crate) fn object(format: Format, value: &impl Serialize, table: &str) -> anyhow::Result<()> {
    match format {
        Format::Table | Format::Wide => print(table),
        Format::Json | Format::Yaml => print(&render(format, &serde_json::to_value(value)?)?),
    }
}

/// Prints objects as YAML documents, as `weft apply` reads them.
pub(crate) fn documents(values: &[Value]) -> anyhow::Result<()> {
    let documents: Vec<String> = values.iter().map(yaml::render).collect();
    print(&documents.join("---\n"))
}

fn render(format: Format, value: &Value) -> anyhow::Result<String> {
    match format {
        Format::Yaml => Ok(yaml::render(value)),
        _ => Ok(serde_json::to_string_pretty(value)? + "\n"),
    }
}

/// Prints one JSON object on one line.
pub(crate) fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string(value)? + "\n"))
}

/// Prints a text to standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// Where something is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Out,
    Err,
}

/// Prints what programs print. Where nobody listens any more they go on all the same.
pub(crate) fn write(to: Stream, bytes: &[u8]) {
    let _ = match to {
        Stream::Out => {
            let mut out = io::stdout().lock();
            out.write_all(bytes).and_then(|()| out.flush())
        }
        Stream::Err => io::stderr().lock().write_all(bytes),
    };
}

/// Prints a line to standard error.
pub(crate) fn note(line: &str) -> anyhow::Result<()> {
    writeln!(io::stderr().lock(), "{line}").context("writing to standard error")
}

/// Tells of control planes that did not answer, where there are any.
pub(crate) fn missing(told: &str) -> anyhow::Result<()> {
    if told.is_empty() { Ok(()) } else { note(told) }
}

/// Tells how long work goes, where someone is looking.
pub(crate) fn progress(line: &str) {
    let mut err = io::stderr().lock();
    if err.is_terminal() {
        // Nothing depends on whether this is seen.
        let _ = writeln!(err, "{line}");
    }
}

/// Prints an error on one line of standard error.
pub(crate) fn error(message: &str) {
    // Where even standard error is gone, the exit code still tells.
    let _ = writeln!(io::stderr().lock(), "weft: {}", one_line(message));
}

fn one_line(message: &str) -> String {
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

/// Whether standard output may hold colours.
pub(crate) fn colours() -> bool {
    colours_on(Stream::Out)
}

/// Whether there may be colours.
pub(crate) fn colours_on(stream: Stream) -> bool {
    let terminal = match stream {
        Stream::Out => is_terminal(),
        Stream::Err => io::stderr().is_terminal(),
    };
    colours_wanted(std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()), terminal)
}

fn colours_wanted(no_color: bool, terminal: bool) -> bool {
    terminal && !no_color
}

/// Whether standard output is a terminal.
pub(crate) fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// How many columns there are: `COLUMNS`, or the terminal's. Nothing is cut for a program that reads us, and says no number.
pub(crate) fn room() -> Option<usize> {
    let said = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminals = || rustix::termios::tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_col)).ok();
    said.filter(|columns| *columns > 0).or_else(terminals).filter(|columns| *columns > 0)
}

/// How many columns a picture may take; 100 where nothing says how many there are.
pub(crate) fn width() -> usize {
    room().map_or(100, |columns| columns.clamp(60, 240))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: &'static str,
        grams: u32,
        colour: Option<&'static str>,
    }

    impl Row for Fruit {
        const COLUMNS: &'static [&'static str] = &["NAME", "GRAMS", "COLOUR"];
        const WIDE_ONLY: usize = 1;
        const PLURAL: &'static str = "fruit";

        fn cells(&self) -> Vec<String> {
            vec![self.name.into(), self.grams.to_string(), self.colour.unwrap_or("-").into()]
        }
    }

    fn check(format: Format, expected: &str) {
        let rows = [
            Fruit { name: "watermelon", grams: 9000, colour: Some("green") },
            Fruit { name: "fig", grams: 40, colour: None },
        ];
        assert_eq!(render_list(format, &rows).unwrap(), expected);
    }

    #[test]
    fn lists_are_shown_in_each_format() {
        check(Format::Table, "NAME        GRAMS\nwatermelon  9000\nfig         40\n");
        check(Format::Wide, "NAME        GRAMS  COLOUR\nwatermelon  9000   green\nfig         40     -\n");
        check(
            Format::Yaml,
            "- name: watermelon\n  grams: 9000\n  colour: green\n- name: fig\n  grams: 40\n  colour: null\n",
        );
        check(
            Format::Json,
            "[\n  {\n    \"name\": \"watermelon\",\n    \"grams\": 9000,\n    \"colour\": \"green\"\n  },\n  \
             {\n    \"name\": \"fig\",\n    \"grams\": 40,\n    \"colour\": null\n  }\n]\n",
        );
    }

    #[test]
    fn what_came_from_elsewhere_does_nothing_to_a_terminal() {
        assert_eq!(harmless("/a\u{1b}[2J\n\u{202e}b\u{9b}é"), "/a\\u{1b}[2J\\n\\u{202e}b\\u{9b}é");
    }

    #[test]
    fn errors_take_one_line() {
        assert_eq!(one_line("a\n\n  b\nc\n"), "a; b; c");
    }

    #[test]
    fn colours_are_for_terminals_and_may_be_refused() {
        assert!(colours_wanted(false, true));
        assert!(!colours_wanted(true, true));
        assert!(!colours_wanted(false, false));
    }
}
