#!/bin/sh
# Two pods of `orders`, of which one always fails; what a caller sees of it without a circuit breaker, and with one.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}

"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" good & good=$!
"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" bad --broken & bad=$!
trap 'kill $good $bad 2>/dev/null || true; wait' EXIT
trap 'exit 1' INT TERM
calls() { "$weft" run --service caller -- sh "$here/calls.sh" "$@"; }

calls without
"$weft" apply -f "$here/policy.yaml"
calls with
