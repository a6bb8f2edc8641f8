#!/bin/sh
# `orders` fails two requests of three, `broken` all of them; what a caller gets without retries, and with them.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}
folder=$(mktemp -d)
mkfifo "$folder/says" "$folder/hears"

"$weft" run --service orders --port 8080:http -- python3 "$here/server.py" fail 3 & orders=$!
"$weft" run --service broken --port 8080:http -- python3 "$here/server.py" fail 1000000 & broken=$!
exec 3<>"$folder/hears" 4<>"$folder/says"
"$weft" run --service caller -- sh "$here/calls.sh" >&4 <"$folder/hears" 3>&- 4>&- & caller=$!
trap 'kill $orders $broken $caller 2>/dev/null || true; wait; rm -r "$folder"' EXIT

# The caller says when it has seen how it is without the policy, and goes on when that is in force.
while read -r line <&4; do
    case $line in
    apply) "$weft" apply -f "$here/policy.yaml"; echo >&3 ;;
    done) break ;;
    *) echo "$line" ;;
    esac
done
wait $caller
