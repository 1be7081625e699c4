#!/bin/sh
# Writes the secrets for docker-compose.yml into secrets/, 64 random hexadecimal digits each. Keeps existing ones.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
chmod 700 secrets
for name in ray_token postgres_password; do
    if [ ! -s "secrets/$name" ]; then
        od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name.new"
        # On this machine the file is protected by its folder, which only you can open. The file itself is world-readable
        # because the container's user, who sees only the file under /run/secrets, has a different user id from yours.
        chmod 444 "secrets/$name.new"
        mv "secrets/$name.new" "secrets/$name"
    fi
done
