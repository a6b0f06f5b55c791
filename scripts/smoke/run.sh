#!/usr/bin/env bash
# `llava-vista reproduce`, run for real at the demo's size on a CPU: checklist, pretrain, finetune, evaluate, compare, for
# a baseline and VISTA. It tests reproduce, not VISTA: the models learn next to nothing in these few steps.
#
#   bash scripts/smoke/run.sh [FOLDER]     FOLDER must not exist (default: a temporary one, deleted at the end)
#
# PYTHON: of an environment that has LLaVA and llava-vista (default: that of .venvs/llava). SEEDS: default "42".
# LMMS_PYTHON: of one that has lmms-eval too (default: that of `scripts/make_env.sh lmms-eval`, made if it is missing).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
PYTHON=${PYTHON:-$repo/.venvs/llava/bin/python}
LMMS_PYTHON=${LMMS_PYTHON:-$repo/$("$repo/scripts/make_env.sh" lmms-eval)/bin/python}
read -r -a seeds <<< "${SEEDS:-42}"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ $# -gt 0 ]; then
  folder=$1
  [ ! -e "$folder" ] || { echo "$folder exists already" >&2; exit 2; }
else
  temporary=$(mktemp -d)
  trap 'rm -rf "$temporary"' EXIT
  folder=$temporary/smoke
fi
step() { printf '\n##### %s (%s s)\n' "$*" "$SECONDS"; }
reproduce() { "$PYTHON" -m llava_vista.cli reproduce "$@"; }

step "set-up"
"$PYTHON" "$here/setup.py" "$folder"
common=(--model smoke --root "$folder/checkout" --data-root "$folder/data" --output "$folder/runs" --seeds "${seeds[@]}"
  --base "$folder/base/language_model" --tower "$folder/base/vision_tower")

step "checklist: a missing picture is found before training, and then nothing is missing"
picture=$(find "$folder/data/images" -name 'finetune*' | sort | head -n 1)
mv "$picture" "$folder/away"
! reproduce train "${common[@]}" --dry-run > "$folder/missing.txt" || { echo "the missing picture was not noticed" >&2; exit 1; }
tr -s ' \n' ' ' < "$folder/missing.txt" | grep -q "images are not there, for example $(basename "$picture")"
mv "$folder/away" "$picture"
reproduce train "${common[@]}" --dry-run | tee "$folder/dry-run.txt"

step "pretrain and finetune, baseline and VISTA"
reproduce train "${common[@]}"

step "what is complete is kept"
reproduce train "${common[@]}" | grep -c "done already"

step "evaluate"
for seed in "${seeds[@]}"; do
  for arm in baseline vista-l2; do
    "$PYTHON" "$here/evaluate.py" "$folder/runs/seed$seed/$arm/llava-tiny-finetune" "$folder/data"
  done
done

step "evaluate with lmms-eval, from the package index: a task of ours over the held-out pictures"
HF_HUB_OFFLINE=1 HF_DATASETS_CACHE=$folder/cache "$LMMS_PYTHON" -m llava_vista.cli reproduce evaluate "${common[@]}" \
  --include-path "$folder/tasks" --tasks scenes

step "compare"
code=0
reproduce compare "${common[@]}" || code=$?
# 1: the report itself says that something could not be compared
[ "$code" -le 1 ] || exit "$code"
[ -s "$folder/runs/comparison.md" ]
step "done"
exit "$code"
