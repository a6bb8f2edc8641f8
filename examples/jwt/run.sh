#!/bin/sh
# A pod of `orders` and one of its next version, and what a caller sees of them before and after tokens of users are required.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}

"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" good & orders=$!
"$weft" run --service orders-next --port 8080:http -- python3 "$here/../orders.py" next & next=$!
trap 'kill $orders $next 2>/dev/null || true; wait' EXIT
trap 'exit 1' INT TERM
calls() { "$weft" run --service caller -- sh "$here/calls.sh" "$@"; }

calls without
"$weft" apply -f "$here/policies.yaml"
calls with
