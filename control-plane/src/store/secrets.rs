//! How records stand in Secrets of a cluster: which object holds which record, under which key, and what an object says.
//!
//! The records of a table are spread over a fixed number of objects by the digest of their names, for an object may have 1 MiB. What
//! must change together stands in one object: the API server promises nothing about several.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::engine::{Table, Write};
use super::revisions::{hex_of, sha256};

/// By this label our objects are found; its value is the group of records that an object holds.
pub(crate) const LABEL: &str = "weft.mesh/records";
/// What they are, as Secrets have it.
const KIND: &str = "weft.mesh/records";
/// Says another thing after every write, so that a write which changes nothing is seen by whoever looked before it.
const WRITTEN: &str = "weft.mesh/written";
/// Longer names are told by their digest; a key of a Secret has 253 characters at most.
const LONGEST: usize = 200;

/// Records by table and name.
pub(crate) type Records = BTreeMap<(Table, String), Vec<u8>>;

/// The group of tables whose records share objects, and how many objects these are.
pub(super) const fn group(table: Table) -> (&'static str, u8) {
    match table {
        // One, since secrets are sealed all or none.
        Table::Secrets => ("secrets", 1),
        // One, since a revision is appended only where nobody has swept.
        Table::Revisions | Table::Marks => ("history", 1),
        Table::Tokens => ("tokens", 4),
        Table::Certificates => ("certificates", 32),
        Table::Registrations => ("registrations", 16),
        Table::Addresses => ("addresses", 8),
        Table::KeySets => ("key-sets", 8),
        Table::Revocations => ("revocations", 8),
        Table::Contents => ("contents", 32),
    }
}

/// The name of the object that holds a record.
pub(super) fn object_of(table: Table, name: &str) -> String {
    let (group, count) = group(table);
    let first = sha256(name.as_bytes()).first().copied().unwrap_or_default();
    match count {
        1 => format!("weft-store-{group}"),
        count => format!("weft-store-{group}-{}", first % count),
    }
}

/// An object without records yet.
pub(super) fn empty(name: &str, namespace: &str, table: Table) -> Value {
    let labels = json!({LABEL: group(table).0, "app.kubernetes.io/managed-by": "weft"});
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "type": KIND,
    })
}

/// What changes an object so (RFC 7386); where a version is given, only one that is of that version.
pub(super) fn patch(writes: &[&Write], version: Option<&str>) -> Value {
    let mut data = Map::new();
    for Write { table, name, value } in writes {
        let value = value.as_ref().map(|value| STANDARD.encode(framed(name, value)).into());
        data.insert(key_of(*table, name), value.unwrap_or(Value::Null));
    }
    let mut metadata = json!({"annotations": {WRITTEN: format!("{:016x}", fastrand::u64(..))}});
    if let (Some(metadata), Some(version)) = (metadata.as_object_mut(), version) {
        metadata.insert("resourceVersion".into(), version.into());
    }
    json!({"metadata": metadata, "data": data})
}

/// The records that an object holds.
pub(crate) fn records(object: &Value) -> Records {
    let data = object.get("data").and_then(Value::as_object).into_iter().flatten();
    data.filter_map(|(key, value)| record(key, value.as_str()?)).collect()
}

/// Its version: later ones of one object are greater (KEP-5504 says so of what every API server has done).
pub(crate) fn version(object: &Value) -> Option<&str> {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str)
}

fn record(key: &str, value: &str) -> Option<((Table, String), Vec<u8>)> {
    let (table, name) = key.split_once('.')?;
    let (table, value) = (Table::of(table)?, STANDARD.decode(value).ok()?);
    if name.starts_with("__") {
        let (length, rest) = value.split_first_chunk::<4>()?;
        let (name, value) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
        return Some(((table, String::from_utf8(name.to_vec()).ok()?), value.to_vec()));
    }
    Some(((table, unescaped(name)?), value))
}

/// A key has letters, digits, `-`, `.` and `_`, which begins what stands for another byte.
fn key_of(table: Table, name: &str) -> String {
    let table = table.as_str();
    let escaped = escaped(name);
    if escaped.len() > LONGEST {
        return format!("{table}.__{}", hex_of(&sha256(name.as_bytes())));
    }
    format!("{table}.{escaped}")
}

/// What a long name's digest stands for goes before the value.
fn framed(name: &str, value: &[u8]) -> Vec<u8> {
    if escaped(name).len() <= LONGEST {
        return value.to_vec();
    }
    let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], name.as_bytes(), value].concat()
}

fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("_{byte:02X}")),
        }
    }
    escaped
}

fn unescaped(key: &str) -> Option<String> {
    let mut parts = key.split('_');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(rest.bytes());
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_key_that_a_secret_may_have_and_is_found_again() {
        let long = "true https://issuer.example.com -----BEGIN CERTIFICATE-----\n".repeat(9);
        for name in ["", "default/web", "spiffe://mesh.local/ns/a/sa/b", "a_b", "__x", "ä.b", &long] {
            let write = Write { table: Table::KeySets, name: name.into(), value: Some(vec![0, 255]) };
            let patch = patch(&[&write], Some("7"));
            let (key, _) = patch["data"].as_object().unwrap().iter().next().unwrap();
            assert!(
                key.len() <= 253 && key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
            );
            assert_eq!(records(&patch), Records::from([((Table::KeySets, name.to_owned()), vec![0, 255])]));
        }
        // What somebody else has put beside it is not ours.
        assert!(
            records(&json!({"data": {"tls.key": "AA==", "tokens._": "AA==", "tokens.a": "?"}})).is_empty()
        );
    }

    #[test]
    fn what_changes_together_is_in_one_object() {
        assert_eq!(object_of(Table::Marks, "swept"), object_of(Table::Revisions, "00001"));
        assert_eq!(object_of(Table::Secrets, "authority"), object_of(Table::Secrets, "seal"));
        let spread: std::collections::BTreeSet<_> =
            (0..1000).map(|n| object_of(Table::Certificates, &n.to_string())).collect();
        assert_eq!(spread.len(), 32);
    }
}
