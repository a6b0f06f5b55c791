#!/usr/bin/env bash
# Does VISTA help? The controlled experiment, from nothing: makes the LLaVA-1.5 environment if it is missing, runs what is
# not done yet, and writes RESULTS.md with its figures. Stop it at any time; the same command goes on.
#
#   scripts/experiment/run.sh                 headline: four arms on the fast path (10 paired seeds) and the real LLaVA-1.5 pipeline (5)
#   scripts/experiment/run.sh --reduced       a few steps of it: does the machinery work? (minutes)
#   scripts/experiment/run.sh --sweep         the headline, then caption length, variants, batch size, prior
#   scripts/experiment/run.sh --studies length --seeds 5 --workers 2
#   scripts/experiment/run.sh --studies large --device cuda   the headline with about 100M parameters and 576 image tokens
#   scripts/experiment/run.sh --list          what is done, what is left
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
python=$repo/$("$repo/scripts/make_env.sh" llava)/bin/python
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"

"$python" "$here/study.py" "$@"
case " $* " in
  *" --list "*) ;;
  *) "$python" "$here/report.py" "$@" ;;
esac
