#!/bin/sh
# Writes the secrets that docker-compose.yml mounts, each 64 random hexadecimal digits, into secrets/; keeps those there are.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
chmod 700 secrets
for name in ray_token postgres_password; do
    if [ ! -s "secrets/$name" ]; then
        od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$name.new"
        # The folder, which is closed to everybody else, protects the file on this machine. The file itself is readable for
        # all because a container's user, who sees it alone under /run/secrets, has another id than yours.
        chmod 444 "secrets/$name.new"
        mv "secrets/$name.new" "secrets/$name"
    fi
done
