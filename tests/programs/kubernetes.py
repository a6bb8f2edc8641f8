"""Reads Kubernetes manifests from standard input and checks them against Kubernetes' own schemas, strictly, of each
version named: kubernetes.py VERSION.. Prints what is wrong, one line each; exits with 1 where anything is."""

import sys

import kubernetes_validate
import yaml

wrong = 0
for document in yaml.safe_load_all(sys.stdin):
    if document is None:
        continue
    for item in document["items"] if document["kind"] == "List" else [document]:
        for version in sys.argv[1:]:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                wrong += 1
                where = "/".join(map(str, error.path))
                print(f"{version} {item['kind']}/{item['metadata'].get('name')} {where}: {error.message}")
sys.exit(1 if wrong else 0)
