#!/bin/sh
# Calls `orders` ten times, and counts what came of it.
set -eu
case $1 in
without) until curl -s http://orders:8080/ | grep -q good; do sleep 0.1; done ;;
# Until it is in force there: another path has a bucket of its own.
with) until curl -s -D - -o /dev/null http://orders:8080/wait | grep -qi '^ratelimit:'; do sleep 0.1; done ;;
esac
for _ in $(seq 10); do
    curl -s -o /dev/null -w '%{http_code}\n' http://orders:8080/
done | sort | uniq -c | awk -v when="$1" '{ print when ": " $1 " x " $2 }'
if [ "$1" = with ]; then
    curl -s -D - -o /dev/null http://orders:8080/ | tr -d '\r' | grep -iE '^(weft-error|retry-after|ratelimit)'
fi
