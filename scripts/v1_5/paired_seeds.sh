#!/usr/bin/env bash
# Both stages, baseline and VISTA, seed by seed (three pairs by default): what a comparison needs.
#
#   LLAVA_ROOT=... bash scripts/v1_5/paired_seeds.sh --output RUNS [--model ...] [--seeds 42 43 44] [--dry-run]
#
# What is complete is kept, so that an interrupted command can be repeated.
set -euo pipefail
exec llava-vista reproduce train --stages pretrain finetune "$@"
