#!/bin/sh
# A pod of `orders`, and what a caller sees of it without a rate limit and with one; another caller is not concerned.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}

"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" good & orders=$!
trap 'kill $orders 2>/dev/null || true; wait' EXIT
trap 'exit 1' INT TERM
calls() { "$weft" run --service caller -- sh "$here/calls.sh" "$@"; }

calls without
"$weft" apply -f "$here/policy.yaml"
calls with
"$weft" run --service guest -- curl -s -o /dev/null -w 'guest: 1 x %{http_code}\n' http://orders:8080/
