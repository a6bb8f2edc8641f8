//! Variables in a `weft.yaml`, as Compose has them: `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:?message}`,
//! `${NAME:+other}`, the same without the colon, and `$$` for a dollar sign.

use super::super::decode::Sink;
use super::super::node::{Node, Value};

/// How deep defaults may hold variables.
const MAX_DEPTH: usize = 8;
/// How long a text may become.
const MAX_LENGTH: usize = 64 * 1024;

type Variable<'v> = &'v dyn Fn(&str) -> Option<String>;

/// Fills in what variables stand for, in all values below a node.
pub(super) fn fill(node: &mut Node, variable: Variable<'_>, sink: &Sink<'_>) {
    match &mut node.value {
        Value::Text(text) if text.contains('$') => match filled(text, variable, 0) {
            Ok(filled) => *text = filled,
            Err(Wrong { message, hint }) => sink.mistake(node.place, message, hint),
        },
        Value::List(items) => items.iter_mut().for_each(|item| fill(item, variable, sink)),
        Value::Map(entries) => entries.iter_mut().for_each(|entry| fill(&mut entry.value, variable, sink)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) => {}
    }
}

struct Wrong {
    message: String,
    hint: &'static str,
}

fn wrong(message: impl Into<String>, hint: &'static str) -> Wrong {
    Wrong { message: message.into(), hint }
}

fn filled(text: &str, variable: Variable<'_>, depth: usize) -> Result<String, Wrong> {
    if depth > MAX_DEPTH {
        return Err(wrong(format!("{text:?} holds variables in variables in variables"), "write it out"));
    }
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            after
        } else if let Some(after) = after.strip_prefix('{') {
            let Some((inner, after)) = closed(after) else {
                return Err(wrong(
                    format!("{text:?} has a brace that is never closed"),
                    "write ${NAME}, or $$ for a dollar sign",
                ));
            };
            out.push_str(&expression(inner, variable, depth)?);
            after
        } else {
            let (name, after) = name(after);
            if name.is_empty() {
                return Err(wrong(
                    format!("{text:?} has a dollar sign without a name"),
                    "write $$ for a dollar sign",
                ));
            }
            out.push_str(&value(name, variable)?);
            after
        };
        if out.len() > MAX_LENGTH {
            return Err(wrong(format!("longer than {MAX_LENGTH} bytes with its variables"), "write less"));
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What is within braces.
fn expression(inner: &str, variable: Variable<'_>, depth: usize) -> Result<String, Wrong> {
    let (name, rest) = name(inner);
    let bad = || {
        wrong(format!("${{{inner}}} cannot be read"), "write ${NAME}, ${NAME:-DEFAULT} or ${NAME:?MESSAGE}")
    };
    if name.is_empty() {
        return Err(bad());
    }
    if rest.is_empty() {
        return value(name, variable);
    }
    let (counts_empty, rest) = rest.strip_prefix(':').map_or((true, rest), |rest| (false, rest));
    let present = variable(name).filter(|value| counts_empty || !value.is_empty());
    let deeper = depth.saturating_add(1);
    if let Some(default) = rest.strip_prefix('-') {
        return present.map_or_else(|| filled(default, variable, deeper), Ok);
    }
    if let Some(message) = rest.strip_prefix('?') {
        let message = if message.is_empty() { "it must be set" } else { message };
        return present
            .ok_or_else(|| wrong(format!("{name}: {message}"), "set this variable of the environment"));
    }
    if let Some(other) = rest.strip_prefix('+') {
        return present.map_or_else(|| Ok(String::new()), |_| filled(other, variable, deeper));
    }
    Err(bad())
}

/// Compose puts nothing for what is not set and goes on; a program that starts with half of its settings is worse.
fn value(name: &str, variable: Variable<'_>) -> Result<String, Wrong> {
    let hint = "set it, or write ${NAME:-DEFAULT} or ${NAME-}; $$ stands for a dollar sign";
    variable(name).ok_or_else(|| wrong(format!("the variable {name} is not set"), hint))
}

/// A variable's name, and what is behind it.
fn name(text: &str) -> (&str, &str) {
    let is_part = |(index, byte): &(usize, u8)| {
        byte.is_ascii_alphabetic() || *byte == b'_' || (*index > 0 && byte.is_ascii_digit())
    };
    let length = text.bytes().enumerate().take_while(is_part).count();
    text.split_at_checked(length).unwrap_or((text, ""))
}

/// What stands before the brace that closes, and behind it.
fn closed(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_u32;
    let mut before = ' ';
    for (at, letter) in text.char_indices() {
        match letter {
            '{' if before == '$' => depth = depth.saturating_add(1),
            '}' if depth == 0 => return Some((text.get(..at)?, text.get(at.saturating_add(1)..)?)),
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        before = letter;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "A" => Some("one".into()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    fn check(text: &str, expected: Result<&str, &str>) {
        match (filled(text, &variable, 0), expected) {
            (Ok(filled), Ok(expected)) => assert_eq!(filled, expected, "{text}"),
            (Err(wrong), Err(expected)) => {
                assert!(wrong.message.contains(expected), "{text}: {}", wrong.message)
            }
            (filled, _) => panic!("{text}: {:?}", filled.map_err(|wrong| wrong.message)),
        }
    }

    #[test]
    fn variables_are_those_of_compose() {
        check("x$A-${A}y$$A", Ok("xone-oney$A"));
        check("${B:-two} ${B-two} ${EMPTY:-two} ${EMPTY-two}|", Ok("two two two |"));
        check("${B:-${A}-${C:-three}}", Ok("one-three"));
        check("${A:+set} ${B:+set} ${EMPTY:+set} ${EMPTY+set}", Ok("set   set"));
        check("${A:?why} ${EMPTY?why}", Ok("one "));
        check("${B:?who are you}", Err("B: who are you"));
        check("${EMPTY:?}", Err("EMPTY: it must be set"));
        check("$B", Err("the variable B is not set"));
        check("${B}", Err("the variable B is not set"));
        check("cost: 5$", Err("dollar sign without a name"));
        check("$1", Err("dollar sign without a name"));
        check("${A", Err("never closed"));
        check("${A!}", Err("cannot be read"));
        check("${}", Err("cannot be read"));
        let deep = format!("{}x{}", "${B:-".repeat(20), "}".repeat(20));
        check(&deep, Err("variables in variables"));
    }
}
