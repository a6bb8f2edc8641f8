#!/bin/sh
# Calls `orders` twenty times whenever it is told to, and counts who answered.
set -eu
until curl -s http://orders:8080/ | grep -q one; do sleep 0.1; done
until curl -s http://orders:8080/ | grep -q two; do sleep 0.1; done
echo ready
while read -r what; do
    # Waits until the sidecar knows of as many pods that work as it is to.
    until [ "$(curl -s http://localhost:4191/config | grep -c '"healthy": true')" = "${what##* }" ]; do sleep 0.1; done
    for _ in $(seq 20); do
        curl -s http://orders:8080/
        echo
    done | sort | uniq -c | awk -v when="${what% *}" '{ print when ": " $1 " x " $2 }'
    echo ready
done
