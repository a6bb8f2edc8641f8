#!/bin/sh
# Calls `orders` twenty times when so many of its pods work as it is told, and counts who answered: calls.sh WHEN PODS
set -eu
# What has not been called is not known.
until curl -sf -o /dev/null http://orders:8080/; do sleep 0.1; done
until [ "$(curl -s http://localhost:4191/config | grep -c '"healthy": true')" = "$2" ]; do sleep 0.1; done
for _ in $(seq 20); do
    curl -s http://orders:8080/
    echo
done | sort | uniq -c | awk -v when="$1" '{ print when ": " $1 " x " $2 }'
