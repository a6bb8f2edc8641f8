//! Protobuf's wire format, as far as spans need it: written as it comes, without a value for each field first.
//!
//! A span of OpenTelemetry's types is some forty allocations, and every request makes one.

use bytes::{BufMut as _, BytesMut};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use prost::bytes::Bytes;

/// OpenTelemetry's `ExportTraceServiceRequest`, its spans encoded already: on the wire a message is its bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ExportRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) resource_spans: Option<ResourceSpans>,
}

/// The spans of one resource.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    pub(super) scope_spans: Option<ScopeSpans>,
}

/// The spans of one scope.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<InstrumentationScope>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub(super) spans: Vec<Bytes>,
}

/// How a field's value is written.
#[derive(Clone, Copy)]
enum Wire {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
    Fixed32 = 5,
}

/// `KeyValue` and `AnyValue` of OpenTelemetry's `common.proto`.
const KEY: u32 = 1;
const VALUE: u32 = 2;
const STRING_VALUE: u32 = 1;
const INT_VALUE: u32 = 3;

/// The fields of a message.
pub(super) struct Fields<'a>(&'a mut BytesMut);

impl<'a> Fields<'a> {
    /// Appends them to `buffer`.
    pub(super) fn new(buffer: &'a mut BytesMut) -> Self {
        Self(buffer)
    }

    pub(super) fn bytes(&mut self, number: u32, value: &[u8]) {
        self.key(number, Wire::Length);
        self.varint(value.len() as u64);
        self.0.put_slice(value);
    }

    /// Text made of several parts.
    pub(super) fn text(&mut self, number: u32, parts: &[&str]) {
        self.key(number, Wire::Length);
        self.varint(length(parts));
        for part in parts {
            self.0.put_slice(part.as_bytes());
        }
    }

    pub(super) fn number(&mut self, number: u32, value: u64) {
        self.key(number, Wire::Varint);
        self.varint(value);
    }

    pub(super) fn fixed64(&mut self, number: u32, value: u64) {
        self.key(number, Wire::Fixed64);
        self.0.put_u64_le(value);
    }

    pub(super) fn fixed32(&mut self, number: u32, value: u32) {
        self.key(number, Wire::Fixed32);
        self.0.put_u32_le(value);
    }

    /// A message that is small and seldom: its length is known when it has been written.
    pub(super) fn message(&mut self, number: u32, write: impl FnOnce(&mut Fields<'_>)) {
        let mut message = BytesMut::new();
        write(&mut Fields(&mut message));
        self.bytes(number, &message);
    }

    /// A `KeyValue` whose value is text made of several parts.
    pub(super) fn text_attribute(&mut self, number: u32, key: &str, parts: &[&str]) {
        let text = length(parts);
        self.attribute(number, key, 1 + varint_length(text) + text);
        self.text(STRING_VALUE, parts);
    }

    /// A `KeyValue` whose value is a number.
    pub(super) fn number_attribute(&mut self, number: u32, key: &str, value: u64) {
        self.attribute(number, key, 1 + varint_length(value));
        self.number(INT_VALUE, value);
    }

    /// A `KeyValue` up to its value, which takes `value` bytes.
    fn attribute(&mut self, number: u32, key: &str, value: u64) {
        let key_length = key.len() as u64;
        self.key(number, Wire::Length);
        self.varint(1 + varint_length(key_length) + key_length + 1 + varint_length(value) + value);
        self.bytes(KEY, key.as_bytes());
        self.key(VALUE, Wire::Length);
        self.varint(value);
    }

    fn key(&mut self, number: u32, wire: Wire) {
        self.varint(u64::from(number << 3 | wire as u32));
    }

    fn varint(&mut self, mut value: u64) {
        while value > 0x7f {
            self.0.put_u8(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.put_u8(value.to_le_bytes()[0]);
    }
}

fn length(parts: &[&str]) -> u64 {
    parts.iter().map(|part| part.len() as u64).sum()
}

/// The bytes that a varint takes: seven bits in each.
fn varint_length(value: u64) -> u64 {
    u64::from((64 - (value | 1).leading_zeros()).div_ceil(7))
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
    use prost::Message as _;

    use super::*;

    #[test]
    fn attributes_of_any_length_are_what_was_written() {
        for text in [0, 1, 60, 127, 128, 20_000].map(|length| "x".repeat(length)) {
            let mut buffer = BytesMut::new();
            Fields::new(&mut buffer).text_attribute(1, &text, &[&text, "/", &text]);
            let mut message = Nested::decode(buffer.freeze()).unwrap();
            let found = message.attributes.remove(0);
            assert_eq!(found.key, text);
            assert_eq!(value(found), Value::StringValue(format!("{text}/{text}")));
        }
        for number in [0, 1, 127, 128, 16_383, 16_384, 1 << 62, i64::MAX as u64] {
            let mut buffer = BytesMut::new();
            Fields::new(&mut buffer).number_attribute(1, "key", number);
            let mut message = Nested::decode(buffer.freeze()).unwrap();
            assert_eq!(value(message.attributes.remove(0)), Value::IntValue(number.try_into().unwrap()));
        }
    }

    #[derive(Clone, PartialEq, prost::Message)]
    struct Nested {
        #[prost(message, repeated, tag = "1")]
        attributes: Vec<KeyValue>,
    }

    fn value(attribute: KeyValue) -> Value {
        let Some(AnyValue { value: Some(value) }) = attribute.value else { panic!("{attribute:?}") };
        value
    }
}
