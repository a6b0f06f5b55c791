#!/usr/bin/env bash
# When does a model begin to look at the picture, with VISTA and without? Makes the LLaVA-1.5 environment if it is missing,
# does the runs that are not done yet, and writes RESULTS.md with its figures. Stop it at any time; it goes on.
#
#   scripts/experiment/run.sh [--seeds 20] [--workers 2] [--settings main tokens110 tokens272 batch32 llava]
#   scripts/experiment/run.sh --reduced                          a few steps: does the machinery work?
#   scripts/experiment/run.sh --settings large --device cuda     about 100M parameters and 576 image tokens
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
python=$repo/$("$repo/scripts/make_env.sh" llava)/bin/python
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

cd "$here"
"$python" study.py "$@"
"$python" report.py "$@"
