#!/bin/sh
# Calls `orders` ten times, before and after a limit is applied, and counts what came of it.
set -eu
calls() {
    for _ in $(seq 10); do
        curl -s -o /dev/null -w '%{http_code}\n' http://orders:8080/
    done | sort | uniq -c | awk -v when="$1" '{ print when ": " $1 " x " $2 }'
}
until curl -s http://orders:8080/ | grep -q good; do sleep 0.1; done
calls without
echo apply
read -r _
# Another path has a bucket of its own.
until curl -s -D - -o /dev/null http://orders:8080/wait | grep -qi '^ratelimit:'; do sleep 0.1; done
calls with
curl -s -D - -o /dev/null http://orders:8080/ | tr -d '\r' | grep -iE '^(weft-error|retry-after|ratelimit)'
echo done
