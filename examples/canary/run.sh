#!/bin/sh
# Two versions of a service behind one name, and how calls move from one to the other.
set -eu
weft=${WEFT:-weft}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
servers=
trap 'kill $servers 2>/dev/null || true; wait; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

for version in v1 v2; do
    mkdir "$work/$version"
    echo "$version" > "$work/$version/version"
    "$weft" run --service "hello-$version" --port 8000 --label app=hello -- \
        python3 -m http.server 8000 --directory "$work/$version" 2>"$work/$version.log" &
    servers="$servers $!"
done

# Calls as many times as asked, from one pod, and says who answered how often.
calls() {
    "$weft" run --service caller -- sh -c '
        url=$1; count=$2; shift 2
        for i in $(seq "$count"); do curl -sS --fail --max-time 10 "$@" "$url"; done
    ' calls "http://hello:8000/version" "$@" | sort | uniq -c | awk '{print $2 ": " $1}'
}

# Both have to be there before anything is sent to them.
for version in v1 v2; do
    "$weft" run --service caller -- \
        curl -sS --fail --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null "http://hello-$version:8000/version"
done

"$weft" apply -f "$here/split.yaml"
echo "of 200 calls:"
calls 200
echo "of 20 calls of testers:"
calls 20 -H "x-tester: yes"

"$weft" apply -f "$here/done.yaml"
echo "of 20 calls after it is done:"
calls 20
