#!/bin/sh
# Two pods of `orders`; one of them falls sick and gets well again between the calls of a caller.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}
folder=$(mktemp -d)
chmod 755 "$folder"

"$weft" run --service orders --port 8080:http --label site=main -- python3 "$here/../orders.py" one --sick "$folder/sick" & one=$!
"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" two & two=$!
trap 'kill $one $two 2>/dev/null || true; wait; rm -r "$folder"' EXIT
trap 'exit 1' INT TERM
calls() { "$weft" run --service caller -- sh "$here/calls.sh" "$@"; }

"$weft" run --service caller -- curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null http://orders:8080/
"$weft" apply -f "$here/policy.yaml"
calls "both work" 2
touch "$folder/sick"
calls "one is sick" 1
rm "$folder/sick"
calls "one is well again" 2

"$weft" apply -f "$here/priorities.yaml"
calls "one comes first" 2
touch "$folder/sick"
calls "one, that comes first, is sick" 1
rm "$folder/sick"
calls "one comes first again" 2
