//! Files of `KEY=VALUE` lines, as `env_file` names them.

use super::super::decode::Sink;
use super::super::{Place, Problem, SourceFile};

/// The longest file that is read, in bytes.
const MAX_BYTES: usize = 1 << 20;

/// Reads one: comments, `export`, and quotes; within double ones `\n`, `\t`, `\r`, `\"`, `\\` and `\$`.
pub fn read(file: SourceFile<'_>) -> Result<Vec<(String, String)>, Vec<Problem>> {
    let sink = Sink::new(file.name);
    let mut pairs = Vec::new();
    if file.text.len() > MAX_BYTES {
        sink.mistake(
            Place { line: 1, column: 1 },
            format!("longer than {MAX_BYTES} bytes"),
            "split it into several files",
        );
    } else {
        for (line, number) in file.text.lines().zip(1..) {
            match pair(line.trim()) {
                Ok(pair) => pairs.extend(pair),
                Err(message) => sink.mistake(
                    Place { line: number, column: 1 },
                    message,
                    "write KEY=VALUE, and quote what holds quotes or \" #\"",
                ),
            }
        }
    }
    let (problems, _) = sink.into_parts();
    if problems.is_empty() { Ok(pairs) } else { Err(problems) }
}

fn pair(line: &str) -> Result<Option<(String, String)>, String> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
    let (key, value) = line.split_once('=').ok_or_else(|| format!("{line:?} has no \"=\""))?;
    let key = key.trim_end();
    let is_word = |key: &str| !key.is_empty() && !key.contains(char::is_whitespace);
    if !is_word(key) {
        return Err(format!("{key:?} is no variable's name"));
    }
    let value = value.trim_start();
    let value = match value.chars().next() {
        Some(quote @ ('\'' | '"')) => quoted(value.get(1..).unwrap_or_default(), quote)?,
        // A comment begins behind a blank.
        _ => value.split_once(" #").map_or(value, |(value, _)| value).trim_end().to_owned(),
    };
    Ok(Some((key.to_owned(), value)))
}

fn quoted(text: &str, quote: char) -> Result<String, String> {
    let mut value = String::new();
    let mut letters = text.chars();
    loop {
        match letters.next() {
            None => return Err("a quote is never closed".to_owned()),
            Some(letter) if letter == quote => break,
            Some('\\') if quote == '"' => match letters.next() {
                Some('n') => value.push('\n'),
                Some('t') => value.push('\t'),
                Some('r') => value.push('\r'),
                Some(escaped @ ('"' | '\\' | '$')) => value.push(escaped),
                Some(other) => value.extend(['\\', other]),
                None => return Err("a quote is never closed".to_owned()),
            },
            Some(letter) => value.push(letter),
        }
    }
    let rest = letters.as_str().trim_start();
    if rest.is_empty() || rest.starts_with('#') {
        Ok(value)
    } else {
        Err(format!("{rest:?} stands behind the quote"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_keys_and_values() {
        let text = "# all of it\nA=1\nexport B = two words # not this\n\nC='a # b'\nD=\"x\\ny\\\"\\z\" # yes\nE=\nF=a#b\r\n";
        let pairs = read(SourceFile { name: "e", text }).unwrap();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected =
            [("A", "1"), ("B", "two words"), ("C", "a # b"), ("D", "x\ny\"\\z"), ("E", ""), ("F", "a#b")];
        assert_eq!(pairs, expected);
    }

    #[test]
    fn every_mistake_has_its_line() {
        let problems =
            read(SourceFile { name: "e", text: "A=1\nB\nC=\"open\nD='x' y\n E F=1\n" }).unwrap_err();
        let told: Vec<String> =
            problems.iter().map(|problem| format!("{}: {}", problem.line, problem.message)).collect();
        assert_eq!(
            told,
            [
                "2: \"B\" has no \"=\"",
                "3: a quote is never closed",
                "4: \"y\" stands behind the quote",
                "5: \"E F\" is no variable's name"
            ]
        );
    }
}
