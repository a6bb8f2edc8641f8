#!/bin/sh
# A service that is made to look slow and broken, for those who ask for it.
set -eu
weft=${WEFT:-weft}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

"$weft" run --service hello --port 8000:http -- \
    python3 -m http.server 8000 --directory "$work" 2>"$work/server.log" &
server=$!

# One call: its status, what the mesh says of it, and whether it took a second.
call() {
    "$weft" run --service caller -- curl -sS --max-time 20 -o /dev/null \
        -w '%{http_code} %header{weft-error} %{time_total}\n' "$@" http://hello:8000/ |
        awk '{print $1, (NF > 2 ? $2 : "-"), ($NF >= 1 ? "slow" : "fast")}'
}

"$weft" run --service caller -- \
    curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null http://hello:8000/

"$weft" apply -f "$here/faults.yaml"
echo "as ever:         $(call)"
echo "x-chaos: slow:   $(call -H 'x-chaos: slow')"
echo "x-chaos: fail:   $(call -H 'x-chaos: fail')"

"$weft" delete faultinjection failing-hello
echo "without a fault: $(call -H 'x-chaos: fail')"
