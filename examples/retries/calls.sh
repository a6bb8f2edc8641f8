#!/bin/sh
# Calls, and counts how they were answered.
set -eu

ask() { # WHAT SERVICE TIMES [CURL'S ARGUMENTS]
    what=$1 service=$2 times=$3
    shift 3
    for _ in $(seq "$times"); do
        curl -s -o /dev/null -w '%{http_code}\n' "$@" "http://$service:8080/"
    done | sort | uniq -c | while read -r count status; do echo "$what: $count x $status"; done
}

if [ "$1" = without ]; then
    until curl -sf -o /dev/null http://orders:8080/count && curl -sf -o /dev/null http://broken:8080/count; do sleep 0.1; done
    ask "without, GET" orders 30
    exit
fi
ask "with, GET" orders 30
ask "with, POST" orders 30 -d sent
before=$(curl -s http://broken:8080/count)
ask "all fail, GET" broken 100
echo "all fail: $(($(curl -s http://broken:8080/count) - before)) requests for 100"
