#!/bin/sh
# `orders` fails two requests of three, `broken` all of them; what a caller gets without retries, and with them.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}

"$weft" run --service orders --port 8080:http -- python3 "$here/server.py" fail 3 & orders=$!
"$weft" run --service broken --port 8080:http -- python3 "$here/server.py" fail 1000000 & broken=$!
trap 'kill $orders $broken 2>/dev/null || true; wait' EXIT
trap 'exit 1' INT TERM
calls() { "$weft" run --service caller -- sh "$here/calls.sh" "$@"; }

calls without
"$weft" apply -f "$here/policy.yaml"
calls with
