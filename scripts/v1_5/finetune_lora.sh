#!/usr/bin/env bash
# Stage 2 with LoRA, then merged for evaluation (needs stage 1 in the same --output): baseline and VISTA, with the upstream's own launch script.
#
#   LLAVA_ROOT=... bash scripts/v1_5/finetune_lora.sh --output RUNS [--model llava-7b|llava-13b] [--dry-run]
#   TINYLLAVA_ROOT=... bash scripts/v1_5/finetune_lora.sh --output RUNS --model tinyllava-3b [--dry-run]
#
# Everything else: llava-vista reproduce --help.
set -euo pipefail
exec llava-vista reproduce train --stages finetune_lora "$@"
