#!/usr/bin/env bash
# Every tier in turn, each under its own heading; the first failure does not hide the later ones.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=()
step() {
  local name=$1
  shift
  local began=$SECONDS
  printf '\n=== %s\n' "$name"
  "$@" || failed+=("$name")
  printf -- '--- %s: %d s\n' "$name" "$((SECONDS - began))"
}

# pytest exits 5 where a tier has no test yet; that is a failure here, so a tier is listed once it has one.
step lint .venv/bin/python -m ruff check .
step format .venv/bin/python -m ruff format --check .
step types .venv/bin/python -m mypy operator/gpulease tests/rig tests/demo
step imports .venv/bin/lint-imports
for tier in unit property contract sim perf envtest e2e; do
  if compgen -G "tests/$tier/test_*.py" >/dev/null; then
    step "$tier" .venv/bin/python -m pytest "tests/$tier" -q
  fi
done

if [ "${RIG:-}" = none ]; then
  printf '\nRIG=none: the bench of the main story is left out, it needs root and a node\n'
else
  step bench env PYTHONPATH=operator .venv/bin/python -m tests.bench
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf '\nfailed: %s\n' "${failed[*]}"
  exit 1
fi
printf '\nall tiers passed in %d s\n' "$SECONDS"
