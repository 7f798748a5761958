#!/bin/sh
# Installs what this machine lacks: distribution packages (as root), then the virtual environment
# from a hashed lock. Changes no firewall, SSH or kernel setting itself.
#
#   prepare.sh                 to deploy: Python packages and an SSH client
#   prepare.sh dev|bench       the demo and the tests too: a Docker engine, debootstrap
set -eu
cd "$(dirname "$0")/../.."
KIND=${1:-runtime}
LOCK=requirements/$KIND.lock

missing=""
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
command -v ssh >/dev/null || missing="$missing openssh-client"
if [ "$KIND" != runtime ]; then
    command -v debootstrap >/dev/null || missing="$missing debootstrap"
    command -v ip >/dev/null || missing="$missing iproute2"
    command -v iptables >/dev/null || [ -x /usr/sbin/iptables ] || missing="$missing iptables"
    if ! docker version >/dev/null 2>&1 && ! command -v dockerd >/dev/null; then
        missing="$missing docker.io"
        # Debian 13 and later ship the client apart from the engine
        if apt-cache show docker-cli >/dev/null 2>&1; then missing="$missing docker-cli"; fi
    fi
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "stackroom: this machine lacks:$missing" >&2
        echo "next: sudo apt-get install$missing    (or run this as root)" >&2
        exit 7
    fi
    echo "installing:$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of package names
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
fi

python3 - <<'PYTHON' || exit 7
import sys
if sys.version_info < (3, 11):
    sys.exit(f"stackroom: Python {sys.version.split()[0]} is too old\nnext: install Python 3.11 or newer")
PYTHON

stamp=.venv/$(basename "$LOCK")
if ! cmp -s "$LOCK" "$stamp"; then
    echo "installing the Python packages of $LOCK"
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r "$LOCK"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --editable .
    cp "$LOCK" "$stamp"
fi
