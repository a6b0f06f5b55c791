#!/usr/bin/env bash
# lmms-eval on every task of the paper's tables, for both arms and all seeds in RUNS, one command line per task.
#
#   LLAVA_ROOT=... bash scripts/eval/lmms_eval.sh --output RUNS [--model ...] [--tasks gqa mme ...] [--dry-run]
#
# lmms-eval 0.3.0 is what the paper used (pip install lmms-eval==0.3.0); the task names are the same in 0.7.3.
set -euo pipefail
exec llava-vista reproduce evaluate "$@"
