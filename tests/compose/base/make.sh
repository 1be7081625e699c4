#!/bin/sh
# Makes stand-ins for the base images that docker/Dockerfile and docker-compose.yml name, from Debian's packages, for
# machines that reach those but no registry of images. PostgreSQL is Debian's version there, not the one of the name.
# Needs root, podman and mmdebstrap, and takes minutes.
set -eu
cd "$(dirname "$0")"
root=../../..
python=$(sed -n 's/^FROM //p' "$root/docker/Dockerfile")
postgres=$(sed -n 's/^ *image: \(.*postgres:.*\)$/\1/p' "$root/docker-compose.yml")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mmdebstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates,procps bookworm "$work/debian.tar"
podman import "$work/debian.tar" distsgd-stand-in-debian

cp python.Containerfile postgres.Containerfile postgres-entry.sh "$work"
# pip reaches its index from within as it does from here.
cp /etc/ssl/certs/ca-certificates.crt "$work"
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$work"; else : >"$work/pip.conf"; fi
podman build --tag "$python" --file "$work/python.Containerfile" "$work"
podman build --network=host --tag "$postgres" --file "$work/postgres.Containerfile" "$work"
