#!/bin/sh
# What the entry point of the official image does with the variables that docker-compose.yml sets.
set -eu
export PGDATA=/var/lib/postgresql/data
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # shellcheck disable=SC2086  # several options
    initdb --username="$POSTGRES_USER" --pwfile="$POSTGRES_PASSWORD_FILE" $POSTGRES_INITDB_ARGS >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    # On a socket alone, as there: nobody may connect before the database is there.
    export PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
    pg_ctl --wait --silent --options="-c listen_addresses='' -k /tmp" start >/dev/null
    psql --quiet --host=/tmp --username="$POSTGRES_USER" --dbname=postgres --command="CREATE DATABASE $POSTGRES_DB"
    pg_ctl --wait --silent --mode=fast stop >/dev/null
    unset PGPASSWORD
fi
exec postgres -c "listen_addresses=*" -k /tmp
