//! Any text is read or refused, and what we write reads back as it was.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use weft_core::manifest::{SourceFile, diff, read, to_yaml};

use crate::documents::good;

fn check(value: &Value, expected: &str) {
    assert_eq!(to_yaml(value), expected);
}

#[test]
fn yaml_is_written_as_people_write_it() {
    check(
        &json!({"apiVersion": "v1", "metadata": {"name": "a", "labels": {}}, "list": [1, {"b": [true, null]}, []]}),
        "apiVersion: v1\nmetadata:\n  name: a\n  labels: {}\nlist:\n- 1\n- b:\n  - true\n  - null\n- []\n",
    );
    check(&json!([[1, 2], [[3]]]), "- - 1\n  - 2\n- - - 3\n");
    check(&json!({"a": "one\n  two\n"}), "a: |\n  one\n    two\n");
    check(&json!({"a": "one\ntwo", "b": ["x\n\ny\n\n"]}), "a: |-\n  one\n  two\nb:\n- |+\n  x\n\n  y\n\n");
    check(&json!({}), "{}\n");
    check(&json!("text"), "text\n");
}

#[test]
fn texts_that_look_like_something_else_are_quoted() {
    for text in [
        "",
        "true",
        "No",
        "null",
        "~",
        "1",
        "1.5",
        "1e3",
        "0x1F",
        "0o7",
        "012",
        "12:30",
        "1_000",
        "2001-01-01",
        ".inf",
        "- a",
        "a: b",
        "a #b",
        "#a",
        "*a",
        "&a",
        "!a",
        "%a",
        "@a",
        "`a",
        "'a",
        "\"a",
        "[a",
        "{a",
        "a:",
        " a",
        "a ",
        "a\tb",
        "---",
        "...",
        "=",
        "<<",
        "?",
        "é",
    ] {
        assert!(to_yaml(&json!(text)).starts_with('"'), "{text:?}: {}", to_yaml(&json!(text)));
    }
    for text in [
        "a",
        "orders-2",
        "weft.mesh/v1alpha1",
        "10.0.0.1",
        "http://a:80/b?c=d",
        "spiffe://a/*",
        "1h30m",
        "20%",
        "a, b",
    ] {
        assert_eq!(to_yaml(&json!(text)), format!("{text}\n"));
    }
}

/// Any JSON, with texts that are hard on YAML.
fn any_json() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        any::<String>(),
        "[ -~\\n\\t]{0,20}",
        "[-:#&*!|>'\"%@` \\na1.~?<,{}\\[\\]]{0,8}",
        "[+-]?[0-9_.:eExo]{1,6}",
        Just("on".to_owned()),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| number.is_finite().then(|| Value::from(number))),
        text.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((text.clone(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_as_it_was(value in any_json()) {
        // Annotations would take only texts; a Namespace's finalizers are kept as they stand.
        let document = json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "spec": {"finalizers": value},
        });
        let text = to_yaml(&document);
        prop_assert_eq!(&good(&text)[0].document, &document, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        read(&[SourceFile { name: "f", text: &text }], &"default".parse().unwrap());
    }

    #[test]
    fn any_text_that_looks_like_yaml_is_read_or_refused(text in "([-?:,\\[\\]{}#&*!|>'\"%@` \\n\\t\\r~<=a0.]|\\n  |- |---\\n|: |&a |\\*a ){0,60}") {
        read(&[SourceFile { name: "f", text: &text }], &"default".parse().unwrap());
    }

    #[test]
    fn any_damage_to_a_document_is_read_or_refused(at in 0..400_usize, what in any::<char>(), cut in 0..400_usize) {
        let whole = "apiVersion: v1\nkind: Service\nmetadata: {name: a, labels: {x: y}}\nspec:\n  clusterIPs: [10.0.0.1]\n  selector: &s {a: b}\n  ports:\n  - {name: a, port: 80, targetPort: http}\n  - name: \"b\"\n    port: 81\n    appProtocol: |\n      x\n---\napiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: w}\nspec: {address: 10.0.0.9, weight: 1}\n";
        let mut text: String = whole.chars().take(cut.max(at)).collect();
        let at = text.char_indices().map(|(index, _)| index).nth(at).unwrap_or(text.len());
        text.insert(at, what);
        read(&[SourceFile { name: "f", text: &text }], &"default".parse().unwrap());
    }

    #[test]
    fn a_diff_holds_exactly_the_lines_that_differ(old in vec("[a-d]", 0..30), new in vec("[a-d]", 0..30)) {
        let join = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let changes = diff(&join(&old), &join(&new));
        prop_assert_eq!(changes.is_empty(), old == new);
        let count = |sign: char| changes.lines().filter(|line| line.starts_with(sign)).count();
        prop_assert_eq!(old.len() + count('+'), new.len() + count('-'));
    }
}
