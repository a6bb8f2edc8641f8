"""Reads a Compose file from standard input by the Compose Specification, and checks that what it names is there."""

import json
import sys

import yaml
from compose_spec import PyCompose

# By way of PyYAML, which carries out merge keys as Compose does.
file = PyCompose.from_json(json.dumps(yaml.safe_load(sys.stdin.read()))).to_dict()
services, wrong = file["services"], []


def must(there, what):
    if not there:
        wrong.append(what)


for name, service in services.items():
    for other in service.get("depends_on") or []:
        must(other in services, f"{name} waits for {other}, which is not there")
    mode = service.get("network_mode") or ""
    if mode.startswith("service:"):
        owner = services.get(mode.removeprefix("service:"))
        must(owner is not None and not owner.get("network_mode"), f"{name} joins {mode}, which has no network")
        for key in ["ports", "networks", "hostname", "links", "dns", "extra_hosts", "expose"]:
            must(not service.get(key), f"{name} joins a network and has {key}")
    for network in service.get("networks") or []:
        must(network == "default" or network in (file.get("networks") or {}), f"{name} is on {network}")
print("\n".join(wrong))
sys.exit(bool(wrong))
