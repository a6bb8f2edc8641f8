//! JSON that everyone reads alike: no name twice, no deeper than anyone needs.

use std::cell::Cell;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Flaw;

/// Objects and lists within each other.
const DEEPEST: u32 = 16;

/// Decodes base64url without padding, of which there is one spelling (RFC 7515 section 2).
pub(super) fn decode(text: &str) -> Result<Vec<u8>, Flaw> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Flaw::Encoding)
}

/// Reads one JSON object, and nothing after it.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, Flaw> {
    let text = std::str::from_utf8(bytes).map_err(|_| Flaw::NotJson)?;
    let duplicate = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_str(text);
    let strict = Strict { depth: 0, duplicate: &duplicate };
    let read = strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    match read {
        Ok(Value::Object(object)) => Ok(object),
        Err(_) if duplicate.get() => Err(Flaw::Duplicate),
        Ok(_) | Err(_) => Err(Flaw::NotJson),
    }
}

/// Reads a value, and remembers whether it failed for a name that is there twice.
#[derive(Clone, Copy)]
struct Strict<'d> {
    depth: u32,
    duplicate: &'d Cell<bool>,
}

impl<'d> Strict<'d> {
    fn within<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEEPEST {
            return Err(E::custom("too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let (within, mut values) = (self.within()?, Vec::new());
        while let Some(value) = list.next_element_seed(within)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let (within, mut members) = (self.within()?, Map::new());
        while let Some(name) = map.next_key::<String>()? {
            if members.contains_key(&name) {
                self.duplicate.set(true);
                return Err(A::Error::custom("a name twice"));
            }
            let value = map.next_value_seed(within)?;
            members.insert(name, value);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, Flaw>) {
        let read = object(text.as_bytes()).map(|object| Value::Object(object).to_string());
        assert_eq!(read.as_deref().map_err(|flaw| *flaw), expected, "{text}");
    }

    #[test]
    fn one_object_is_read_whole_and_everything_else_is_not() {
        let all = r#"{"a":[1,-2,1.5,true,null,{"b":"c"}]}"#;
        check(all, Ok(all));
        check(r#"{"a":1,"a":2}"#, Err(Flaw::Duplicate));
        check(r#"{"a":{"b":1,"\u0062":2}}"#, Err(Flaw::Duplicate));
        for bad in ["", "1", "[]", "{} {}", "{'a':1}", "{\"a\":1,}", "{\"a\":NaN}", "{\"a\":\"\u{1}\"}"] {
            check(bad, Err(Flaw::NotJson));
        }
        assert_eq!(object(b"{\"a\":\"\xff\"}"), Err(Flaw::NotJson));
        let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(object(deep(15).as_bytes()).is_ok());
        check(&deep(16), Err(Flaw::NotJson));
        check(&deep(5_000), Err(Flaw::NotJson));
    }

    #[test]
    fn base64url_has_one_spelling() {
        assert_eq!(decode("_-8"), Ok(vec![0xff, 0xef]));
        for bad in ["_-8=", "_-9", "+/8", "_-8\n", " _-8", "a"] {
            assert_eq!(decode(bad), Err(Flaw::Encoding), "{bad:?}");
        }
    }
}
