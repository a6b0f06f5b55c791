#!/usr/bin/env bash
# LLaVA's own scripts/v1_5/eval on one model, for those who use them.
#
#   LLAVA_ROOT=... bash scripts/eval/llava.sh MODEL NAME [TASK ...]       TASK: gqa, mme, pope, sqa, textvqa
#   DRY_RUN=1 ...                                                        only prints what would be run
#
# The scripts name one model, liuhaotian/llava-v1.5-13b, so each is run as a copy that names MODEL instead and calls
# the answers NAME (say seed42-vista-l2); LLaVA's own files are not changed. The data are where its docs/Evaluation.md
# says; answers go there too. What is printed is kept in llava-eval-<folder of MODEL> beside MODEL, where `llava-vista
# compare` finds it. The other tasks of scripts/v1_5/eval only make files for an evaluation server.
set -euo pipefail
if [ $# -lt 2 ] || [ -z "${LLAVA_ROOT:-}" ]; then
  sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
model=$(cd "$1" && pwd)
name=$2
shift 2
tasks=("$@")
[ ${#tasks[@]} -gt 0 ] || tasks=(gqa mme pope sqa textvqa)

missing=()
[ -f "$model/config.json" ] || missing+=("$model holds no model")
[ ! -f "$model/adapter_config.json" ] ||
  missing+=("$model is an unmerged LoRA adapter: merge it with LLaVA's scripts/merge_lora_weights.py")
case $(basename "$model") in *llava*) ;; *) missing+=("LLaVA loads a model only from a folder with llava in its name: $model") ;; esac
[[ $name =~ ^[A-Za-z0-9._-]+$ ]] || missing+=("NAME may have letters, digits, dots and dashes only: $name")
declare -A data=([gqa]=gqa/data/images [mme]=MME/MME_Benchmark_release_version [pope]=pope/val2014
  [sqa]=scienceqa/images/test [textvqa]=textvqa/train_images)
for task in "${tasks[@]}"; do
  if [ -z "${data[$task]:-}" ]; then
    missing+=("no task is called $task; there are ${!data[*]}")
    continue
  fi
  [ -f "$LLAVA_ROOT/scripts/v1_5/eval/$task.sh" ] || missing+=("$LLAVA_ROOT/scripts/v1_5/eval/$task.sh is not there")
  folder=$LLAVA_ROOT/playground/data/eval/${data[$task]}
  [ -d "$folder" ] || missing+=("$folder is not there: see LLaVA's docs/Evaluation.md")
done
if [ ${#missing[@]} -gt 0 ]; then
  printf '!!  %s\n' "${missing[@]}" >&2
  [ -n "${DRY_RUN:-}" ] || exit 1
fi

# two steps, so that the model's own path is not renamed
edited() {
  sed -e "s|liuhaotian/llava-v1\.5-[0-9]*b|@MODEL@|g" -e "s|llava-v1\.5-[0-9]*b|$name|g" -e "s|@MODEL@|$model|g" "$1"
}

output=$(dirname "$model")/llava-eval-$(basename "$model")
for task in "${tasks[@]}"; do
  original=$LLAVA_ROOT/scripts/v1_5/eval/$task.sh
  [ -f "$original" ] || continue
  printf '\n# %s: %s\n' "$task" "$original"
  if [ -n "${DRY_RUN:-}" ]; then
    edited "$original"
    continue
  fi
  mkdir -p "$output"
  edited "$original" > "$output/$task.sh"
  (cd "$LLAVA_ROOT" && bash "$output/$task.sh") 2>&1 | tee "$output/$task.log"
done
[ -z "${DRY_RUN:-}" ] || [ ${#missing[@]} -eq 0 ]
