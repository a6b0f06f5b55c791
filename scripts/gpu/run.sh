#!/usr/bin/env bash
# Everything about this package that only a GPU can answer, in one command of less than ten minutes.
#
#   scripts/gpu/run.sh --out results                    every part, on the GPU if there is one
#   scripts/gpu/run.sh --out results right no-sync      these parts alone
#   scripts/gpu/run.sh --out results --device cpu --reduced     a rehearsal: tiny shapes, no goal is judged
#   scripts/gpu/run.sh --help
#
# PYTHON chooses the interpreter (default python3); it needs torch and transformers, and nothing is installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
export PYTHONPATH="$root:$root/tests/support${PYTHONPATH:+:$PYTHONPATH}"
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # deterministic algorithms need it before CUDA starts
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" "$root/scripts/gpu/run.py" "$@"
