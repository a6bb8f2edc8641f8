//! JSON -> YAML that people like to read, the same for the same value, and read back as it was.

use serde_json::Value;

use super::node;
use super::yaml::plain;

/// Writes a document as block-style YAML.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => write_list(items, 0, &mut out),
        _ => write_leaf(value, 0, &mut out),
    }
    out
}

fn write_map(map: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            pad(indent, out);
        }
        write_text(key, out);
        out.push(':');
        match value {
            Value::Object(map) if !map.is_empty() => {
                let indent = indent.saturating_add(2);
                out.push('\n');
                pad(indent, out);
                write_map(map, indent, out);
            }
            // A list's dashes stand below the key's first letter, as in kubectl's output.
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                pad(indent, out);
                write_list(items, indent, out);
            }
            _ => {
                out.push(' ');
                write_leaf(value, indent, out);
            }
        }
    }
}

fn write_list(items: &[Value], indent: usize, out: &mut String) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            pad(indent, out);
        }
        out.push_str("- ");
        let inner = indent.saturating_add(2);
        match item {
            Value::Object(map) if !map.is_empty() => write_map(map, inner, out),
            Value::Array(items) if !items.is_empty() => write_list(items, inner, out),
            _ => write_leaf(item, indent, out),
        }
    }
}

/// Writes what fits behind a key or dash, and the line's end.
fn write_leaf(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) if is_block(text) => return write_block(text, indent, out),
        Value::String(text) => write_text(text, out),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
    out.push('\n');
}

/// Whether a text reads best, and reads back the same, as a literal block.
fn is_block(text: &str) -> bool {
    let printable = text.chars().all(|c| c == '\n' || is_printable(c));
    let begins_plainly = !text.starts_with([' ', '\n', '\t']);
    let trailing = text.lines().any(|line| line.ends_with([' ', '\t']));
    text.trim_end_matches('\n').contains('\n') && printable && begins_plainly && !trailing
}

fn write_block(text: &str, indent: usize, out: &mut String) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len().saturating_sub(body.len()) {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    out.push('\n');
    for line in body.split('\n') {
        if !line.is_empty() {
            pad(indent.saturating_add(2), out);
            out.push_str(line);
        }
        out.push('\n');
    }
    for _ in 1..text.len().saturating_sub(body.len()) {
        out.push('\n');
    }
}

fn write_text(text: &str, out: &mut String) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) <= 0xffff => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
}

fn is_printable(c: char) -> bool {
    let odd = matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
    !c.is_control() && !odd
}

/// Whether a text needs no quotes: here, and for readers that still follow YAML 1.1.
fn is_plain(text: &str) -> bool {
    let begins_plainly =
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '.' | '$'));
    let inner = |c: char| c.is_ascii_alphanumeric() || " -_./:=+@,;()$%^~*?<>|'".contains(c);
    let separates = text.contains(": ") || text.ends_with([':', ' ']);
    begins_plainly && text.chars().all(inner) && !separates && !is_other_than_text(text)
}

fn is_other_than_text(text: &str) -> bool {
    let old_words = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let numeric = |c: char| c.is_ascii_digit() || matches!(c, '_' | ':' | '.' | '-' | '+');
    let looks_numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && (text.chars().all(numeric)
            || text.starts_with("0x")
            || text.starts_with("0o")
            || text.starts_with("0b"));
    // A date such as 2001-01-01, a number in base 60 such as 12:30, or one with '_'.
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    let exponent = matches!(plain(text), Some(node::Value::Number(_)));
    let word = old_words.iter().any(|word| text.eq_ignore_ascii_case(word));
    let special = text.starts_with("---") || text.starts_with("...") || text.eq_ignore_ascii_case(".inf");
    word || exponent || special || text.eq_ignore_ascii_case(".nan") || (looks_numeric && !is_address)
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}
