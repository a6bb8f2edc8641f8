#!/bin/sh
# Two pods of `orders`; one of them falls sick and gets well again while a caller calls.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}
folder=$(mktemp -d)
chmod 755 "$folder"
mkfifo "$folder/says" "$folder/hears"

"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" one --sick "$folder/sick" & one=$!
"$weft" run --service orders --port 8080:http -- python3 "$here/../orders.py" two & two=$!
exec 3<>"$folder/hears" 4<>"$folder/says"
"$weft" run --service caller -- sh "$here/calls.sh" >&4 <"$folder/hears" 3>&- 4>&- & caller=$!
trap 'kill $one $two $caller 2>/dev/null || true; wait; rm -r "$folder"' EXIT

step=0
while read -r line <&4; do
    if [ "$line" != ready ]; then
        echo "$line"
        continue
    fi
    step=$((step + 1))
    case $step in
    1) "$weft" apply -f "$here/policy.yaml"; echo "both work 2" >&3 ;;
    2) touch "$folder/sick"; echo "one is sick 1" >&3 ;;
    3) rm "$folder/sick"; echo "one is well again 2" >&3 ;;
    *) break ;;
    esac
done
