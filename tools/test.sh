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

step lint make --no-print-directory lint
step types make --no-print-directory types
step imports make --no-print-directory imports
if [ "${RIG:-}" != none ]; then
  # What the tests need beyond .venv, from the cache or built once: Debian packages, Kubernetes, NVIDIA's plugin, doubles.
  step tools env PYTHONPATH=operator .venv/bin/python -m tests.rig build
fi
# pytest exits 5 where a tier has no test yet; that is a failure here, so a tier is listed once it has one.
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
