#!/usr/bin/env bash
# `llava-vista compare` on everything that was trained and evaluated in RUNS: one table, beside the paper's.
#
#   bash scripts/eval/compare.sh --output RUNS [--model ...] [--seeds ...]
set -euo pipefail
exec llava-vista reproduce compare "$@"
