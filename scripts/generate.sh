#!/bin/sh
# Writes the wire types of every language from protos/.
#
# One protoc for all languages (grpc_tools of the virtual environment) and each language's own pinned plugin: the
# lock file's for Python, go.mod's tool lines for Go, package-lock.json for TypeScript. Generated code is committed, so
# that using a client needs no generator; scripts/check_generated.sh proves that it is fresh.
#
# Usage: scripts/generate.sh [ROOT]   ROOT: where the three trees are written; the repository itself by default.
# A language whose tools are missing is skipped with one line on stderr; exit code 0 all the same.
set -eu

cd "$(dirname "$0")/.."
REPOSITORY=$PWD
ROOT=${1:-$REPOSITORY}
BIN=${BIN:-.venv/bin}
case "$BIN" in /*) ;; *) BIN=$REPOSITORY/$BIN ;; esac
# Beside the target, so that the last step is a rename: nobody who imports the types meanwhile sees half a tree, and a
# generator that fails leaves the old one.
mkdir -p "$ROOT"
STAGE=$(mktemp -d "$ROOT/.generate.XXXXXX")
trap 'rm -rf "$STAGE"' EXIT INT TERM
PROTOS=$(find protos -name '*.proto' | LC_ALL=C sort)

# shellcheck disable=SC2086  # $PROTOS is a list of paths without spaces
protoc() {
    PATH="$BIN:$PATH" "$BIN/python" -m grpc_tools.protoc -I protos "$@" $PROTOS
}

# Puts a finished tree in its place: replace STAGED TARGET.
replace() {
    mkdir -p "$(dirname "$2")"
    if [ -e "$2" ]; then
        mv "$2" "$1.old"
    fi
    mv "$1" "$2"
}

generate_python() {
    out=$STAGE/python
    mkdir "$out"
    protoc --python_out="$out" --grpc_python_out="$out" --mypy_out=quiet:"$out" --mypy_grpc_out=quiet:"$out"
    find "$out/beeyard" -type d -exec touch {}/__init__.py \;
    touch "$out/beeyard/py.typed"
    replace "$out/beeyard" "$ROOT/clients/python/gen/beeyard"
}

generate_go() {
    if ! command -v go >/dev/null 2>&1; then
        echo "generate: Go types skipped: 'go' is not on PATH (install Go 1.26 or later)" >&2
        return
    fi
    if ! (cd clients/go && GOBIN=$STAGE/bin go install tool) >"$STAGE/log" 2>&1; then
        echo "generate: Go types skipped: the plugins that clients/go/go.mod names cannot be built ($(tail -n 1 "$STAGE/log"))" >&2
        return
    fi
    out=$STAGE/go
    mkdir "$out"
    module=module=github.com/beeyard/beeyard/clients/go
    protoc --plugin=protoc-gen-go="$STAGE/bin/protoc-gen-go" --go_out="$out" --go_opt="$module" \
        --plugin=protoc-gen-go-grpc="$STAGE/bin/protoc-gen-go-grpc" --go-grpc_out="$out" --go-grpc_opt="$module"
    replace "$out/gen" "$ROOT/clients/go/gen"
}

generate_typescript() {
    for tool in node npm; do
        if ! command -v "$tool" >/dev/null 2>&1; then
            echo "generate: TypeScript types skipped: '$tool' is not on PATH (install Node.js 20 or later)" >&2
            return
        fi
    done
    # Reinstalled only when the lock file changed: npm writes this file at the end of each install.
    installed=clients/web/node_modules/.package-lock.json
    if [ ! -e "$installed" ] || [ clients/web/package-lock.json -nt "$installed" ]; then
        if ! (cd clients/web && npm ci --no-audit --no-fund --loglevel=error) >"$STAGE/log" 2>&1; then
            echo "generate: TypeScript types skipped: npm cannot install the plugin ($(tail -n 1 "$STAGE/log"))" >&2
            return
        fi
    fi
    out=$STAGE/web
    mkdir "$out"
    protoc --plugin=protoc-gen-es=clients/web/node_modules/.bin/protoc-gen-es --es_out="$out" \
        --es_opt=target=ts --es_opt=import_extension=js
    replace "$out" "$ROOT/clients/web/src/gen"
}

generate_python
generate_go
generate_typescript
