#!/usr/bin/env bash
# make demo and make demo-down: the environment first, with the time it took, then python -m tests.demo up|down.
# SIGTERM and Ctrl-C reach Python itself, which cleans up.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! make -q .venv/.ready; then
  began=$SECONDS
  echo "demo: making .venv from requirements.lock (about 15 s, the first time longer) ..."
  make --no-print-directory setup
  echo "demo: .venv ready after $((SECONDS - began)) s"
fi
PYTHONPATH=operator exec .venv/bin/python -m tests.demo "$@"
