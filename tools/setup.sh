#!/usr/bin/env bash
# Makes .venv from requirements.lock with uv. Needs only Python >= 3.11 and, as root, apt for what Debian splits off.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in python3.11 python3.12 python3.13 python3; do
  if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(command -v "$candidate")
    break
  fi
done
if [ -z "$python" ]; then
  echo "setup: no Python >= 3.11 was found; install one (Debian 12: apt-get install python3) and run make setup again" >&2
  exit 1
fi

uv=$(command -v uv || true)
if [ -z "$uv" ]; then
  if [ ! -x .uv/bin/uv ]; then
    if ! "$python" -m venv .uv 2>/dev/null; then
      rm -rf .uv
      if [ "$(id -u)" -ne 0 ]; then
        echo "setup: python's venv module is missing; install python3-venv and run make setup again" >&2
        exit 1
      fi
      apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
      "$python" -m venv .uv
    fi
    .uv/bin/python -m pip install --quiet --disable-pip-version-check uv
  fi
  uv=.uv/bin/uv
fi

[ -x .venv/bin/python ] || "$uv" venv --quiet --python "$python" .venv
"$uv" pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
"$uv" pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation -e .
