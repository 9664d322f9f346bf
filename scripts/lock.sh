#!/bin/sh
# Pins the newest versions that pyproject.toml allows, with the hashes of all their files for every platform.
#
# One set of versions in several lock files, one for each reason to install: dev.lock (everything), demo.lock (what runs,
# with the demo model and without the development tools), one for each role's image, and bootstrap.lock (the installer
# and the build backend). charts.lock has the two wheels that tests of the Helm chart look into, without what they would
# need if they were installed. judges.lock has versions of its own: judges are what people install who do not know us. None
# names a registry: the machine's settings do.
#
# Usage: scripts/lock.sh [PACKAGE...]   PACKAGE: pin only these anew; all by default.
set -eu

cd "$(dirname "$0")/.."
BIN=${BIN:-.venv/bin}
DEV=requirements/dev.lock

# --no-strip-extras: pip takes `coverage[toml]` for another thing than `coverage`, and wants both pinned.
compile() {
    "$BIN/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
        --no-strip-extras "$@"
}

upgrades=--upgrade
if [ $# -gt 0 ]; then
    upgrades=$(printf -- '--upgrade-package=%s ' "$@")
fi
# shellcheck disable=SC2086  # $upgrades is a list of options
compile $upgrades pyproject.toml --extra all --extra demo --group dev -o "$DEV"
# shellcheck disable=SC2086
compile $upgrades --group bootstrap -c "$DEV" -o requirements/bootstrap.lock
# Older pins in these files would only fight with the constraints.
rm -f requirements/demo.lock requirements/queen.lock requirements/pool-manager.lock requirements/worker.lock \
    requirements/gateway.lock
compile pyproject.toml --extra all --extra demo -c "$DEV" -o requirements/demo.lock
compile pyproject.toml --extra queen -c "$DEV" -o requirements/queen.lock
compile pyproject.toml --extra pool-manager --extra worker --extra llamacpp -c "$DEV" -o requirements/pool-manager.lock
compile pyproject.toml --extra worker --extra llamacpp -c "$DEV" -o requirements/worker.lock
compile pyproject.toml --extra gateway -c "$DEV" -o requirements/gateway.lock
# shellcheck disable=SC2086
compile $upgrades --group charts --no-deps -o requirements/charts.lock
# shellcheck disable=SC2086
compile $upgrades --group judges -o requirements/judges.lock
