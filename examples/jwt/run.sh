#!/bin/sh
# A pod of `orders`, and what a caller sees of it before and after tokens of users are required.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}
folder=$(mktemp -d)
mkfifo "$folder/says" "$folder/hears"

"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" good & orders=$!
exec 3<>"$folder/hears" 4<>"$folder/says"
"$weft" run --service caller -- sh "$here/calls.sh" "$here" >&4 <"$folder/hears" 3>&- 4>&- & caller=$!
trap 'kill $orders $caller 2>/dev/null || true; wait; rm -r "$folder"' EXIT

# The caller says when it has seen how it is without the policies, and goes on when that is in force.
while read -r line <&4; do
    case $line in
    apply) "$weft" apply -f "$here/policies.yaml"; echo >&3 ;;
    done) break ;;
    *) echo "$line" ;;
    esac
done
wait $caller
