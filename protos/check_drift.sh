#!/usr/bin/env bash
# Tells whether the committed stubs are those of the .proto files. Usage: protos/check_drift.sh PYTHON, as for generate.sh.
set -euo pipefail
python=${1:?usage: protos/check_drift.sh PYTHON}
here="$(cd "$(dirname "$0")" && pwd)"
copy="$(mktemp -d)"
trap 'rm -rf "$copy"' EXIT

mkdir -p "$copy/made/hyperact"
cp "$here/generate.sh" "$copy/made/"
for package in "$here"/hyperact/*/; do
  name="$(basename "$package")"
  mkdir -p "$copy/made/hyperact/$name" "$copy/committed/$name"
  cp "$package"*.proto "$copy/made/hyperact/$name/"
  cp "$package"*_pb2*.py* "$copy/committed/$name/"
done
"$copy/made/generate.sh" "$python" 2>"$copy/messages" || { cat "$copy/messages" >&2; exit 1; }
rm "$copy"/made/hyperact/*/*.proto
if ! diff --recursive --brief "$copy/committed" "$copy/made/hyperact"; then
  echo 'The stubs are not those of the .proto files; "make protos" regenerates them.' >&2
  exit 1
fi
