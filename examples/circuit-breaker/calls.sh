#!/bin/sh
# Calls `orders` forty times, and counts what came of it.
set -eu
if [ "$1" = without ]; then
    # Both pods are there when both have answered.
    until curl -s http://orders:8080/ | grep -q good; do sleep 0.1; done
    until curl -s http://orders:8080/ | grep -q bad; do sleep 0.1; done
fi
for _ in $(seq 40); do
    curl -s -o /dev/null -w '%{http_code}\n' http://orders:8080/
done | sort | uniq -c | awk -v when="$1" '{ print when ": " $1 " x " $2 }'
if [ "$1" = with ]; then
    curl -s http://localhost:4191/metrics | grep '^weft_circuit_state'
fi
