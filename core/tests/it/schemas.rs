//! What a cluster's API server refuses and what our reader refuses: the same fields, and no document of ours.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value, json};
use weft_core::manifest::schema::{KINDS, definitions, spec};
use weft_core::manifest::{Kind, Problem, SourceFile, objects, read, restore};
use weft_core::model::Name;

/// A key and a word that nobody knows.
const UNKNOWN: &str = "qqqqqqqqqqqqqqqq";

#[derive(Clone, Debug)]
enum Step {
    Key(String),
    First,
}

/// Every schema below one, with the way to it.
fn walk(schema: &Value, way: &[Step], visit: &mut impl FnMut(&Value, &[Step])) {
    visit(schema, way);
    let below = |step: Step| [way, &[step]].concat();
    for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
        walk(schema, &below(Step::Key(key.clone())), visit);
    }
    if let Some(items) = schema.get("items") {
        walk(items, &below(Step::First), visit);
    }
}

/// What the schema demands, and along the way what leads to `end`.
fn sample(schema: &Value, way: &[Step], end: &Value) -> Value {
    if let (Some(Step::First), items) = (way.first(), &schema["items"]) {
        return json!([sample(items, &way[1..], end)]);
    }
    if way.is_empty() && !end.is_null() {
        if let Some(more) = end.as_object() {
            let mut whole = sample(schema, &[], &Value::Null);
            whole.as_object_mut().expect("an object").extend(more.clone());
            return whole;
        }
        return end.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let mut keys: BTreeSet<&str> = required.collect();
            if keys.contains("kind") {
                keys.insert("name");
            }
            if let Some(Step::Key(key)) = way.first() {
                keys.insert(key);
            }
            let below = |key: &str| match way.first() {
                Some(Step::Key(next)) if next == key => sample(&schema["properties"][key], &way[1..], end),
                // Tokens' keys are fetched from there.
                _ if key == "issuer" => json!("https://id.example"),
                _ => sample(&schema["properties"][key], &[], &Value::Null),
            };
            keys.into_iter().map(|key| (key.to_owned(), below(key))).collect::<Map<_, _>>().into()
        }
        Some("array") => json!([sample(&schema["items"], &[], &Value::Null)]),
        Some("integer") => schema["minimum"].clone(),
        Some("boolean") => json!(true),
        _ if schema["enum"].is_array() => schema["enum"][0].clone(),
        _ if schema["pattern"].as_str().is_some_and(|pattern| pattern.contains("ms")) => json!("1s"),
        _ => json!("x"),
    }
}

fn problems(kind: Kind, spec: &Value) -> Vec<Problem> {
    let document = json!({"apiVersion": kind.api_version(), "kind": kind.as_str(), "metadata": {"name": "default"}, "spec": spec});
    restore(&document, &"shop".parse::<Name>().unwrap(), "test").err().unwrap_or_default()
}

fn words(list: &str) -> BTreeSet<String> {
    list.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

#[test]
fn the_schema_knows_every_field_of_the_reader_and_the_reader_every_word_of_the_schema() {
    let (mut wrong, mut objects, mut choices) = (Vec::new(), 0, 0);
    for kind in KINDS {
        let whole = spec(kind);
        walk(&whole, &[], &mut |schema, way| {
            // The schema may be ahead by a section that the reader does not know yet, and refuses by name.
            let is_unasked =
                kind == Kind::TrafficPolicy && matches!(way, [Step::Key(key), ..] if key == "mtls");
            // Labels have names of their own.
            if schema["type"] == "object" && schema.get("additionalProperties").is_none() {
                objects += 1;
                let known: BTreeSet<String> =
                    schema["properties"].as_object().unwrap().keys().cloned().collect();
                let document = sample(&whole, way, &json!({UNKNOWN: 1}));
                let found = problems(kind, &document);
                let told = found.iter().find(|problem| problem.message.contains(UNKNOWN));
                // What only the schema knows the reader refuses, and the object's status says so; the other way a field
                // would be dropped by the API server without a word.
                let read = told.map(|told| words(told.hint.strip_prefix("known here: ").unwrap_or_default()));
                let is_asked = told.is_some() || is_unasked;
                if !is_asked || !read.clone().unwrap_or_default().is_subset(&known) {
                    wrong.push(format!(
                        "{kind} {way:?}: the schema has {known:?}, the reader {read:?}: {document} {found:?}"
                    ));
                }
            }
            if let Some(allowed) = schema["enum"].as_array()
                && !is_unasked
            {
                choices += 1;
                let allowed: BTreeSet<String> =
                    allowed.iter().map(|word| word.as_str().unwrap().to_owned()).collect();
                let found = problems(kind, &sample(&whole, way, &json!(UNKNOWN)));
                let told = found.iter().find_map(|problem| problem.message.split_once(" is not one of "));
                let read = told.map(|(_, list)| words(list)).unwrap_or_default();
                if !allowed.is_subset(&read) {
                    wrong.push(format!(
                        "{kind} {way:?}: the schema allows {allowed:?}, the reader {read:?}: {found:?}"
                    ));
                }
            }
        });
    }
    assert!(wrong.is_empty(), "{wrong:#?}\nsay it in core/src/manifest/schema as well");
    assert!(objects > 40 && choices > 15, "{objects} objects, {choices} choices");
}

/// As the API server would say it.
fn mistakes(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if schema.get("x-kubernetes-preserve-unknown-fields").is_some() {
        return;
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        if !value.is_string() && !value.is_i64() {
            found.push(format!("{at}: neither a number nor a text"));
        }
        return;
    }
    let is_typed = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("integer") => value.is_i64(),
        Some("boolean") => value.is_boolean(),
        _ => value.is_string(),
    };
    if !is_typed {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
        return;
    }
    for (key, value) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(key).or_else(|| schema.get("additionalProperties")) {
            Some(schema) => mistakes(schema, value, &format!("{at}.{key}"), found),
            None => found.push(format!("{at}.{key}: unknown")),
        }
    }
    for key in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(key).is_none() {
            found.push(format!("{at}.{key}: missing"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        mistakes(&schema["items"], item, &format!("{at}[{index}]"), found);
    }
    let length = value.as_array().map(Vec::len);
    let within = |least: &str, most: &str, number: u64| {
        schema[least].as_u64().is_none_or(|least| number >= least)
            && schema[most].as_u64().is_none_or(|most| number <= most)
    };
    if let Some(length) = length
        && !within("minItems", "maxItems", length as u64)
    {
        found.push(format!("{at}: {length} members"));
    }
    if let Some(number) = value.as_u64()
        && !within("minimum", "maximum", number)
    {
        found.push(format!("{at}: {number}"));
    }
    if let (Some(pattern), Some(text)) = (schema["pattern"].as_str(), value.as_str())
        && !Regex::new(pattern).unwrap().is_match(text)
    {
        found.push(format!("{at}: {text:?} is not like {pattern}"));
    }
    if schema["enum"].as_array().is_some_and(|words| !words.contains(value)) {
        found.push(format!("{at}: {value} is not one of {}", schema["enum"]));
    }
}

/// The YAML of the repository: files, and what stands between fences in the documents.
#[expect(clippy::disallowed_methods, reason = "the documents themselves are looked at")]
fn texts() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut found = Vec::new();
    let mut folders = ["docs", "examples", "tests/it"].map(|folder| root.join(folder)).to_vec();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if extension == "yaml" {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            } else if extension == "md" {
                let text = std::fs::read_to_string(&path).unwrap();
                let blocks =
                    text.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("yaml\n"));
                found.extend(blocks.map(|block| (path.clone(), block.to_owned())));
            }
        }
    }
    found
}

#[test]
fn every_document_that_the_reader_takes_the_schemas_take_too() {
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (path, text) in texts() {
        let file = SourceFile { name: &path.display().to_string(), text: &text };
        let Ok(documents) = objects(file) else { continue };
        for document in documents {
            let kind = KINDS.into_iter().find(|kind| document["kind"] == kind.as_str());
            let Some(kind) = kind.filter(|kind| document["apiVersion"] == kind.api_version()) else {
                continue;
            };
            let whole = serde_json::to_string(&document).unwrap();
            let is_taken = read(&[SourceFile { name: "-", text: &whole }], &"default".parse().unwrap())
                .problems
                .is_empty();
            if !is_taken {
                continue;
            }
            checked += 1;
            let mut found = Vec::new();
            mistakes(&spec(kind), &document["spec"], "spec", &mut found);
            wrong.extend(found.into_iter().map(|found| format!("{}: {kind} {found}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 10, "{checked} documents were found");
}

#[test]
fn definitions_name_every_kind_and_keep_their_status_apart() {
    let definitions = definitions();
    assert_eq!(definitions.len(), KINDS.len());
    for (definition, kind) in definitions.iter().zip(KINDS) {
        assert_eq!(definition["metadata"]["name"], format!("{}.weft.mesh", kind.plural()));
        let scope = if kind == Kind::MeshConfig { "Cluster" } else { "Namespaced" };
        assert_eq!(definition["spec"]["scope"], scope);
        let version = &definition["spec"]["versions"][0];
        assert_eq!(version["subresources"], json!({"status": {}}));
        assert!(version["schema"]["openAPIV3Schema"]["properties"]["spec"].is_object());
    }
}

/// What an API server demands of a definition beyond the schema of definitions: that it is structural, and that each rule has a
/// bound of what it costs.
#[test]
fn definitions_are_what_an_api_server_takes() {
    for definition in definitions() {
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        let spec = &definition["spec"];
        assert_eq!(
            name,
            format!("{}.{}", spec["names"]["plural"].as_str().unwrap(), spec["group"].as_str().unwrap())
        );
        // kubectl apply writes the whole into an annotation, of which there may be 256 KiB.
        assert!(definition.to_string().len() < 200 << 10, "{name}");
        let versions = spec["versions"].as_array().unwrap();
        assert_eq!(versions.iter().filter(|version| version["storage"] == true).count(), 1, "{name}");
        for version in versions {
            walk(&version["schema"]["openAPIV3Schema"], &[], &mut |schema, way| {
                check_structural(schema, &format!("{name} {way:?}"))
            });
            assert!(version["schema"]["openAPIV3Schema"]["properties"]["status"].is_object());
        }
    }
}

fn check_structural(schema: &Value, at: &str) {
    const WORDS: [&str; 20] = [
        "type",
        "description",
        "properties",
        "additionalProperties",
        "required",
        "items",
        "enum",
        "pattern",
        "maxLength",
        "minimum",
        "maximum",
        "minItems",
        "maxItems",
        "format",
        "anyOf",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-validations",
    ];
    let schema = schema.as_object().unwrap();
    assert!(schema.keys().all(|key| WORDS.contains(&key.as_str())), "{at}: {schema:?}");
    let says = |key: &str| schema.get(key) == Some(&json!(true));
    let is_free = says("x-kubernetes-preserve-unknown-fields") || says("x-kubernetes-int-or-string");
    assert!(schema.contains_key("type") != is_free, "{at}: {schema:?}");
    // What is a map has no properties of its own, and its values a type.
    if let Some(values) = schema.get("additionalProperties") {
        assert!(!schema.contains_key("properties"), "{at}");
        check_structural(values, &format!("{at} values"));
    }
    // The one form in which `anyOf` may speak of types.
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    assert!(
        schema.get("anyOf").is_none_or(|any| says("x-kubernetes-int-or-string") && *any == either),
        "{at}"
    );
    let of = |kind: &str| schema.get("type") == Some(&json!(kind));
    // Without a bound of each list, a rule below it may cost anything.
    assert_eq!(of("array"), schema.contains_key("items") && schema.contains_key("maxItems"), "{at}");
    for (key, kind) in [
        ("properties", "object"),
        ("required", "object"),
        ("pattern", "string"),
        ("maxLength", "string"),
        ("minimum", "integer"),
    ] {
        assert!(!schema.contains_key(key) || of(kind), "{at}: {key}");
    }
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        assert!(schema["properties"].get(required.as_str().unwrap()).is_some(), "{at}: {required}");
    }
    if let Some(pattern) = schema.get("pattern") {
        Regex::new(pattern.as_str().unwrap()).unwrap();
    }
    let fields = Regex::new(r"self\.([A-Za-z]+)").unwrap();
    for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
        let (rule, message) = (rule["rule"].as_str().unwrap(), rule["message"].as_str().unwrap());
        assert!(of("object") && !message.is_empty() && !message.contains('\n'), "{at}");
        // Lists have a bound each, texts need none as long as no rule walks over one.
        assert!(!rule.contains(".matches("), "{at}: {rule}");
        for field in fields.captures_iter(rule) {
            let field = &field[1];
            assert!(field == "metadata" || schema["properties"].get(field).is_some(), "{at}: {rule}");
            let known = &schema["properties"][field];
            assert!(field == "metadata" || known.get("type").is_some(), "{at}: CEL knows nothing of {field}");
        }
    }
}
