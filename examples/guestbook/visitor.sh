#!/bin/sh
# Visits the web app, and tries the database's door, which is not for it.
set -eu
for _ in 1 2 3 4 5 6 7 8; do
    curl -sS --fail --max-time 20 http://web/
done
if psql -h db -U postgres -Atc "select 1" >/dev/null 2>&1; then
    echo "the database lets anyone in"
    exit 1
fi
echo "the database is for web alone"
