#!/bin/sh
# Fails when the committed wire types differ from what protos/ gives now.
#
# Generates into a temporary folder and compares, so that a check never changes the tree. A language whose tools are
# missing here is not compared, and that is said: a check that did not run must not look like one that passed.
set -eu

cd "$(dirname "$0")/.."
FRESH=$(mktemp -d)
trap 'rm -rf "$FRESH"' EXIT INT TERM
scripts/generate.sh "$FRESH"

stale=0
for tree in clients/python/gen/beeyard clients/go/gen clients/web/src/gen; do
    if [ ! -d "$FRESH/$tree" ]; then
        echo "check-generated: $tree not checked" >&2
        continue
    fi
    if ! diff -r -q -x __pycache__ "$FRESH/$tree" "$tree" >"$FRESH/differences" 2>&1; then
        echo "check-generated: $tree is stale in $(wc -l <"$FRESH/differences" | tr -d ' ') files: run 'make generate' and commit" >&2
        stale=1
    fi
done
exit "$stale"
