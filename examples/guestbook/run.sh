#!/bin/sh
# PostgreSQL, a web app and a visitor, each with its sidecar; all end when the visitor has.
set -eu
here=$(dirname "$(realpath "$0")")
weft=${WEFT:-weft}
GUESTBOOK=$(mktemp -d)
export GUESTBOOK
trap 'rm -r "$GUESTBOOK"' EXIT
trap 'exit 1' INT TERM
chmod 755 "$GUESTBOOK"
"$weft" run -f "$here/weft.yaml" --until visitor
