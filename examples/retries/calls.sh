#!/bin/sh
# Calls, and counts how they were answered; a word on the first line says when the policy is to be applied.
set -eu

ask() { # WHAT SERVICE TIMES [CURL'S ARGUMENTS]
    what=$1 service=$2 times=$3
    shift 3
    for _ in $(seq "$times"); do
        curl -s -o /dev/null -w '%{http_code}\n' "$@" "http://$service:8080/"
    done | sort | uniq -c | while read -r count status; do echo "$what: $count x $status"; done
}

until curl -sf -o /dev/null http://orders:8080/count && curl -sf -o /dev/null http://broken:8080/count; do sleep 0.1; done
ask "without, GET" orders 30
echo apply
read -r _
# Until it is in force here: three in a row are answered.
until [ "$(ask x orders 3)" = "x: 3 x 200" ]; do sleep 0.1; done
ask "with, GET" orders 30
ask "with, POST" orders 30 -d sent
before=$(curl -s http://broken:8080/count)
ask "all fail, GET" broken 100
echo "all fail: $(($(curl -s http://broken:8080/count) - before)) requests for 100"
echo done
