//! JSON values as YAML, in block style.

use serde_json::Value;

/// A YAML document.
pub(super) fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(fields) if !fields.is_empty() => write(&mut text, value, 0),
        Value::Array(items) if !items.is_empty() => write(&mut text, value, 0),
        _ => {
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
    text
}

/// Writes a non-empty object or list; the cursor is where its first line begins.
fn write(text: &mut String, value: &Value, indent: usize) {
    let mut first = true;
    let mut begin = |text: &mut String| {
        if !std::mem::take(&mut first) {
            text.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                begin(text);
                text.push_str(&quoted_if_needed(key));
                text.push(':');
                write_field(text, field, indent);
            }
        }
        Value::Array(items) => {
            for item in items {
                begin(text);
                text.push_str("- ");
                if nested(item) {
                    write(text, item, indent + 2);
                } else {
                    end_line(text, item);
                }
            }
        }
        other => end_line(text, other),
    }
}

fn write_field(text: &mut String, field: &Value, indent: usize) {
    if !nested(field) {
        text.push(' ');
        return end_line(text, field);
    }
    // A list stands at its key's own depth, as Kubernetes writes it.
    let depth = if field.is_array() { indent } else { indent + 2 };
    text.push('\n');
    text.extend(std::iter::repeat_n(' ', depth));
    write(text, field, depth);
}

fn nested(value: &Value) -> bool {
    match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn end_line(text: &mut String, value: &Value) {
    text.push_str(&scalar(value));
    text.push('\n');
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(string) => quoted_if_needed(string),
        other => other.to_string(),
    }
}

/// Plain where no YAML reader could take it for anything but this string; else in JSON's quotes, which are YAML's too.
fn quoted_if_needed(string: &str) -> String {
    let mut characters = string.chars();
    let begins_plain =
        characters.next().is_some_and(|first| first.is_ascii_alphabetic() || matches!(first, '/' | '_'));
    let goes_on_plain =
        characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '.' | '@' | '+'));
    // What YAML 1.1 and 1.2 read as true, false, null or a number.
    let reserved = ["true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"];
    let is_reserved = reserved.contains(&string.to_ascii_lowercase().as_str());
    if begins_plain && goes_on_plain && !is_reserved {
        string.to_owned()
    } else {
        Value::from(string).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(value: &Value, expected: &str) {
        assert_eq!(render(value), expected);
    }

    #[test]
    fn values_are_written_in_block_style() {
        check(&json!([]), "[]\n");
        check(&json!({}), "{}\n");
        check(&json!("a"), "a\n");
        check(
            &json!({"kind": "Service", "spec": {"ports": [{"port": 80, "name": "web"}, 7, [1, [2]], []], "empty": {}}}),
            "kind: Service\nspec:\n  ports:\n  - port: 80\n    name: web\n  - 7\n  - - 1\n    - - 2\n  - []\n  empty: {}\n",
        );
    }

    #[test]
    fn strings_are_quoted_where_they_could_be_something_else() {
        for plain in ["a", "weft.mesh/v1alpha1", "/orders", "a-b_c.d", "spiffe"] {
            check(&json!(plain), &format!("{plain}\n"));
        }
        for quoted in
            ["", "true", "No", "1", "1.5", "-", "- a", "a: b", "a #b", "250ms", "~", "*", "é", "a\nb", "y"]
        {
            check(&json!(quoted), &format!("{}\n", json!(quoted)));
        }
    }
}
