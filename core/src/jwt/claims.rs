//! What a proved token says.

use serde_json::{Map, Value};

use crate::model::ClaimName;

/// Claims whose text is a list of words (RFC 8693 section 4.2; `scp` is what others call it).
const WORDS: [&str; 2] = ["scope", "scp"];

/// What a proved token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// The claims of a token that was proved.
    pub(super) fn new(said: Map<String, Value>) -> Self {
        Self(said)
    }

    /// The text at a path of names, each within what the one before names.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        let (first, within) = path.split_first()?;
        let begin = self.0.get(*first)?;
        within.iter().try_fold(begin, |value, name| value.as_object()?.get(*name))?.as_str()
    }

    /// Shows every value of a claim: each member of a list, each word of a scope, and numbers and truth as JSON spells
    /// them. Returns whether the claim is there; what has no text, such as an object, is there and has no value.
    pub fn each_value(&self, name: &ClaimName, see: &mut dyn FnMut(&str)) -> bool {
        let Some(value) = self.find(name.as_str()) else { return false };
        match value {
            Value::String(words) if WORDS.contains(&name.as_str()) => {
                words.split(' ').filter(|word| !word.is_empty()).for_each(see)
            }
            Value::Array(members) => members.iter().for_each(|member| each_scalar(member, see)),
            value => each_scalar(value, see),
        }
        true
    }

    /// Whether any value of a claim is found good.
    pub fn any_value(&self, name: &ClaimName, good: &dyn Fn(&[u8]) -> bool) -> bool {
        let mut found = false;
        self.each_value(name, &mut |value| found = found || good(value.as_bytes()));
        found
    }

    /// A claim's values in one header field: separated by commas, and every byte that could be more than itself there as `%XX`;
    /// none where it has no value.
    pub fn in_header(&self, name: &ClaimName) -> Option<String> {
        let mut text = String::new();
        let mut is_first = true;
        self.each_value(name, &mut |value| {
            if !std::mem::take(&mut is_first) {
                text.push(',');
            }
            escape(value, &mut text);
        });
        (!is_first).then_some(text)
    }

    fn find(&self, name: &str) -> Option<&Value> {
        if let Some(found) = self.0.get(name) {
            return Some(found);
        }
        let mut path = name.split('.');
        let mut value = self.0.get(path.next()?)?;
        for part in path {
            value = value.as_object()?.get(part)?;
        }
        Some(value)
    }
}

fn each_scalar(value: &Value, see: &mut dyn FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Number(number) => see(&number.to_string()),
        Value::Bool(true) => see("true"),
        Value::Bool(false) => see("false"),
        Value::Null | Value::Array(_) | Value::Object(_) => {}
    }
}

fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'%' | b',') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims() -> Claims {
        let said = json!({
            "sub": "a, b\r\nx: é%",
            "scope": "read  write",
            "groups": ["x", 7, true, null, ["no"]],
            "name": "Jane Doe",
            "realm": {"access": {"roles": ["admin"]}},
            "https://example.com/roles": ["ops"],
            "level": 3,
            "nothing": null,
        });
        Claims::new(said.as_object().unwrap().clone())
    }

    fn check(name: &str, expected: Option<&[&str]>) {
        let mut values = Vec::new();
        let there = claims().each_value(&name.parse().unwrap(), &mut |value| values.push(value.to_owned()));
        assert_eq!(
            there.then_some(values),
            expected.map(|e| e.iter().map(ToString::to_string).collect()),
            "{name}"
        );
    }

    #[test]
    fn claims_are_found_by_their_names_and_within_each_other() {
        check("scope", Some(&["read", "write"]));
        check("groups", Some(&["x", "7", "true"]));
        check("name", Some(&["Jane Doe"]));
        check("realm.access.roles", Some(&["admin"]));
        check("https://example.com/roles", Some(&["ops"]));
        check("level", Some(&["3"]));
        check("nothing", Some(&[]));
        check("realm", Some(&[]));
        check("absent", None);
        check("realm.none", None);
        check("name.first", None);
    }

    #[test]
    fn texts_are_found_by_paths_whose_names_may_have_dots() {
        let said = json!({"kubernetes.io": {"pod": {"name": "a"}}, "sub": "b", "aud": ["c"]});
        let claims = Claims::new(said.as_object().unwrap().clone());
        assert_eq!(claims.text(&["kubernetes.io", "pod", "name"]), Some("a"));
        assert_eq!(claims.text(&["sub"]), Some("b"));
        for path in [&["aud"][..], &["sub", "x"], &["kubernetes.io", "pod"], &["none"], &[]] {
            assert_eq!(claims.text(path), None, "{path:?}");
        }
    }

    #[test]
    fn in_a_header_a_claim_is_nothing_but_itself() {
        let text = |name: &str| claims().in_header(&name.parse().unwrap());
        assert_eq!(text("sub").as_deref(), Some("a%2C%20b%0D%0Ax:%20%C3%A9%25"));
        assert_eq!(text("scope").as_deref(), Some("read,write"));
        assert_eq!(text("groups").as_deref(), Some("x,7,true"));
        assert_eq!((text("absent"), text("realm")), (None, None));
    }
}
