#!/usr/bin/env bash
# Regenerates the stubs beside the .proto files. Usage: protos/generate.sh PYTHON, where PYTHON has requirements.txt installed.
set -euo pipefail
cd "$(dirname "$0")"
python=${1:?usage: protos/generate.sh PYTHON}
PATH="$(dirname "$python"):$PATH"

"$python" -m grpc_tools.protoc -I . --python_out=. --mypy_out=. hyperact/*/*.proto
for proto in $(grep -l '^service ' hyperact/*/*.proto); do
  "$python" -m grpc_tools.protoc -I . --grpc_python_out=. --mypy_grpc_out=. "$proto"
done
