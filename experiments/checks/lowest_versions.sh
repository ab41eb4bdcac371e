#!/usr/bin/env bash
# The tests with the lowest versions that pyproject.toml allows, in an environment of their own (some 8 GB, removed again):
#
#   experiments/checks/lowest_versions.sh                  # the everyday tests
#   experiments/checks/lowest_versions.sh tests/losses -x  # some; options are pytest's
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_CACHE_DIR="$work/cache" VIRTUAL_ENV="$work/venv"
python3 -m venv "$work/uv"
"$work/uv/bin/pip" install --quiet uv
"$work/uv/bin/uv" venv --quiet --python "$(command -v python3)" "$VIRTUAL_ENV"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
"$work/uv/bin/uv" pip install --quiet --resolution lowest-direct -e ".[dev]"
"$work/uv/bin/uv" pip list
PYTHONPATH="$root" "$VIRTUAL_ENV/bin/python" -m pytest "$@"
