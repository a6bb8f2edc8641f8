#!/bin/sh
# Becomes a PostgreSQL of its own folder; as root it is the user nobody, since PostgreSQL refuses to be root.
set -eu
PATH=$PATH:$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
data=$FOLDER/data
as=
if [ "$(id -u)" = 0 ]; then
    chown nobody "$FOLDER"
    as="setpriv --reuid nobody --clear-groups"
fi
$as initdb -A trust -U postgres -N -D "$data" >/dev/null
echo "host all all all trust" >>"$data/pg_hba.conf"
echo "create table visits (at timestamptz default now(), copy int);" |
    $as postgres --single -j -D "$data" postgres >/dev/null
exec $as postgres -D "$data" -k "$FOLDER" -h '*' -F -c log_min_messages=fatal
