"""Renders a chart by Helm's own engine, without a cluster, and compares with the manifests on standard input: helm.py CHART NAMESPACE
[KEY=VALUE,..]. The namespace itself is Helm's to make. Prints what Helm's linter finds above a hint, and each object that differs; exits
with 1 where there is anything, else prints how many objects are the same."""

import json
import sys

import helm_python
import yaml

HINT = 1


def by_name(texts):
    documents = [document for text in texts for document in yaml.safe_load_all(text) if document]
    named = {(document["kind"], document["metadata"].get("namespace"), document["metadata"]["name"]): document for document in documents}
    assert len(named) == len(documents), "two of one name"
    return named


path, namespace, *settings = sys.argv[1:]
values = helm_python.parse_set_string_values(settings[0]) if settings else {}
report = helm_python.lint(path, values, strict=True, namespace=namespace)
wrong = [f"{message['path']}: {message['error']}" for message in report["messages"] if message["severity"] > HINT] + report["errors"]
with helm_python.Chart.load(path) as chart:
    texts = [definition["data"] for definition in chart.crds]
    made = by_name(texts + list(chart.render(values, name="weft", namespace=namespace).values()))
wanted = by_name([sys.stdin.read()])
wanted = {name: document for name, document in wanted.items() if name[0] != "Namespace"}
for name in sorted({*made, *wanted}, key=str):
    if made.get(name) != wanted.get(name):
        wrong.append(f"{name}:\n  by Helm {json.dumps(made.get(name), sort_keys=True)}\n  by weft {json.dumps(wanted.get(name), sort_keys=True)}")
if wrong:
    sys.exit("\n".join(wrong))
print(f"{len(made)} objects, by Helm {helm_python.helm_sdk_version()}")
