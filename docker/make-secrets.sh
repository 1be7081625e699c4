#!/bin/sh
# Writes the secrets for docker-compose.yml into secrets/, 64 random hexadecimal digits each, and with --secure also
# those for docker-compose.secure.yml: a password for MLflow, and certificates (needs openssl). Keeps existing ones.
set -eu
cd "$(dirname "$0")/.."
umask 077
mkdir -p secrets
chmod 700 secrets

# On this machine the files are protected by their folder, which only you can open. The files themselves are world-readable
# because the container's user, who sees them under /run/secrets, has a different user id from yours.
keep() {
    chmod 444 "secrets/$1.new"
    mv "secrets/$1.new" "secrets/$1"
}

random() {
    [ -s "secrets/$1" ] && return
    od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"secrets/$1.new"
    keep "$1"
}

# certificate NAME ALTERNATIVE-NAMES USAGE [AUTHORITY]: a key and a certificate for it, signed by itself or an authority.
certificate() {
    [ -s "secrets/$1_certificate" ] && [ -s "secrets/$1_key" ] && return
    if [ -n "${4:-}" ]; then
        set -- "$1" "$2" "$3" -CA "secrets/$4_certificate" -CAkey "secrets/$4_key"
    else
        set -- "$1" "$2" "$3"
    fi
    name=$1 names=$2 usage=$3
    shift 3
    printf '[req]\ndistinguished_name=dn\nx509_extensions=ext\nprompt=no\n[dn]\nCN=distsgd %s\n[ext]\n%s\n%s\n' \
        "$name" "$names" "$usage" >"secrets/openssl.cnf"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 825 -config secrets/openssl.cnf \
        -keyout "secrets/$name""_key.new" -out "secrets/$name""_certificate.new" "$@" 2>/dev/null
    rm secrets/openssl.cnf
    keep "${name}_key"
    keep "${name}_certificate"
}

random ray_token
random postgres_password
[ "${1:-}" = --secure ] || exit 0

random mlflow_password
random mlflow_session_key
if [ ! -s secrets/mlflow_login ]; then
    printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' \
        "$(cat secrets/mlflow_password)" >secrets/mlflow_login.new
    keep mlflow_login
fi
leaf='basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth'
certificate mlflow 'subjectAltName=DNS:mlflow,DNS:localhost,IP:127.0.0.1' "$leaf"
# An authority for Ray's nodes alone: whoever has a certificate of it is admitted to their connections.
certificate ray_authority 'subjectKeyIdentifier=hash' 'basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign'
# Ray compares the address of a node with its certificate: this one names all of the network in docker-compose.secure.yml.
names='subjectAltName=DNS:head,DNS:localhost,IP:127.0.0.1'
host=2
while [ "$host" -le 30 ]; do
    names="$names,IP:10.213.77.$host"
    host=$((host + 1))
done
certificate ray_node "$names" "$leaf,clientAuth" ray_authority
chmod 400 secrets/ray_authority_key # for nobody but you
