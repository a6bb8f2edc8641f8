#!/bin/sh
# A version that nobody depends on yet gets a copy of every call.
set -eu
weft=${WEFT:-weft}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
servers=
trap 'kill $servers 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

mkdir "$work/hello" "$work/hello-next"
echo hello > "$work/hello/page"   # the next version has no such page yet
for name in hello hello-next; do
    "$weft" run --service "$name" --port 8000:http -- \
        python3 -m http.server 8000 --directory "$work/$name" 2>"$work/$name.log" &
    servers="$servers $!"
done
for name in hello hello-next; do
    "$weft" run --service caller -- \
        curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null "http://$name:8000/"
done

"$weft" apply -f "$here/mirror.yaml"
"$weft" run --service caller -- sh -c '
    for i in $(seq 50); do curl -sS --max-time 10 -o /dev/null -w "%{http_code}\n" http://hello:8000/page; done
' | sort | uniq -c | awk '{print "callers saw " $1 " times " $2}'

# The copies are sent beside the calls: the last ones may still be on their way.
copies() { grep -c '"GET /page' "$work/hello-next.log" || true; }
tries=0
while [ "$(copies)" -lt 50 ] && [ "$tries" -lt 50 ]; do tries=$((tries + 1)); sleep 0.2; done
echo "the next version was asked $(copies) times"
