#!/usr/bin/env bash
# Tells whether the committed stubs are those of the .proto files. Usage: protos/check_drift.sh PYTHON, as for generate.sh.
set -euo pipefail
python=${1:?usage: protos/check_drift.sh PYTHON}
here="$(cd "$(dirname "$0")" && pwd)"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT

mkdir -p "$copy/made/hyperact/v1" "$copy/committed"
cp "$here/generate.sh" "$copy/made/"
cp "$here"/hyperact/v1/*.proto "$copy/made/hyperact/v1/"
"$copy/made/generate.sh" "$python" 2>"$copy/messages" || { cat "$copy/messages" >&2; exit 1; }
rm "$copy"/made/hyperact/v1/*.proto
cp "$here"/hyperact/v1/*_pb2*.py* "$copy/committed/"
if ! diff --recursive --brief "$copy/committed" "$copy/made/hyperact/v1"; then
  echo 'The stubs are not those of the .proto files; "make protos" regenerates them.' >&2
  exit 1
fi
