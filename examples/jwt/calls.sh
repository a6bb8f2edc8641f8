#!/bin/sh
# Calls `orders` without a token and, where they are required, with those of two users.
set -eu
. "$(dirname "$0")/tokens.sh"
call() {
    name=$1 path=$2
    shift 2
    answer=$(curl -s -w ' %{http_code}' "$@" "http://orders:8080$path" | tr -d '\n')
    echo "$name $path: ${answer##* } ${answer% *}"
}
if [ "$1" = without ]; then
    until curl -s http://orders:8080/ | grep -q good; do sleep 0.1; done
    until curl -s http://orders-next:8080/ | grep -q next; do sleep 0.1; done
    call nobody /
    exit
fi
until [ "$(curl -s -o /dev/null -w '%{http_code}' http://orders:8080/)" = 401 ]; do sleep 0.1; done
until curl -s -H "authorization: Bearer $ANN" http://orders:8080/ | grep -q next; do sleep 0.1; done
call nobody /
call bob / -H "authorization: Bearer $BOB"
call bob /admin -H "authorization: Bearer $BOB"
call ann /admin -H "authorization: Bearer $ANN"
call liar / -H "authorization: Bearer ${ANN%?????}AAAAA"
curl -s -D - -o /dev/null http://orders:8080/ -H "authorization: Bearer ${ANN%?????}AAAAA" | tr -d '\r' | grep -i '^www-authenticate'
