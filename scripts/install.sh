#!/bin/sh
# Makes the virtual environment and installs one lock file and this package into it.
#
# Needs only python3 (3.11 or later, with its venv module), git and make, and says in one line what is missing. Every
# package is pinned with its hashes; no lock file names a registry, so the machine's own settings decide where packages
# come from. The installer is uv, for speed. Where uv finds no way to the packages and pip does (pip's configuration and
# cache are its own), pip installs the same lock file.
#
# Usage: scripts/install.sh LOCK   LOCK: such as requirements/dev.lock. Env: PYTHON (python3), VENV (.venv).
set -eu

cd "$(dirname "$0")/.."
LOCK=$1
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

missing() {
    echo "beeyard: $1" >&2
    exit 1
}

command -v git >/dev/null 2>&1 || missing "git is missing: install it (Debian: apt-get install git) and try again"
command -v "$PYTHON" >/dev/null 2>&1 ||
    missing "$PYTHON is missing: install Python 3.11 or later, or name one: make PYTHON=python3.12 ..."
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    missing "$("$PYTHON" --version) is too old: Python 3.11 or later is needed; name one: make PYTHON=python3.12 ..."
"$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
    missing "$PYTHON has no venv module: install it (Debian: apt-get install python3-venv) and try again"

if [ ! -x "$VENV/bin/python" ]; then
    echo "beeyard: making $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv "$VENV"
fi
# A virtual environment that was copied, or whose Python is gone, fails here and not in the middle of something.
"$VENV/bin/python" -c 'import pip' 2>/dev/null || missing "$VENV is broken: remove it (make clean) and try again"

echo "beeyard: installing $LOCK (once; later calls find it done)"
PIP="$VENV/bin/python -m pip install --quiet --disable-pip-version-check"
$PIP --require-hashes -r requirements/bootstrap.lock
# --link-mode: a copy where the cache lies on another disk, without a warning. --system-certs: a machine behind a proxy
# that signs for itself trusts it, and uv must, too.
"$VENV/bin/uv" pip install --quiet --system-certs --link-mode copy --python "$VENV/bin/python" --require-hashes -r "$LOCK" || {
    echo "beeyard: uv could not install the packages; trying pip" >&2
    $PIP --require-hashes -r "$LOCK"
}
$PIP --no-deps --no-build-isolation --editable .
