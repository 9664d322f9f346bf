#!/bin/sh
# Pins the newest versions that pyproject.toml allows, with the hashes of all their files for every platform.
#
# Three lock files with one set of versions: bootstrap.lock (the installer and the build backend), dev.lock (everything)
# and demo.lock (what runs, without the development tools). None names a registry: the machine's settings do.
#
# Usage: scripts/lock.sh [PACKAGE...]   PACKAGE: pin only these anew; all by default.
set -eu

cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
DEV=requirements/dev.lock

compile() {
    "$BIN/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "$@"
}

if [ $# -eq 0 ]; then
    set -- --upgrade
else
    set -- $(printf -- '--upgrade-package %s ' "$@")
fi
compile "$@" pyproject.toml --extra all --extra demo --group dev -o "$DEV"
compile pyproject.toml --extra all --extra demo -c "$DEV" -o requirements/demo.lock
compile "$@" --group bootstrap -c "$DEV" -o requirements/bootstrap.lock
