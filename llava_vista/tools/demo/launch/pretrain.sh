#!/bin/bash
# Stage 1, feature alignment: only the projector trains, on images and their captions.
# The shape of LLaVA's scripts/v1_5/pretrain.sh at the demo's size. Arguments of this script, for example
# --vista, are passed to llava.train. No DeepSpeed, bf16 or tf32: this runs on a CPU.

set -euo pipefail

"${PYTHON:-python}" -m llava.train.train \
    --model_name_or_path "${LANGUAGE_MODEL:?folder of the base language model}" \
    --version plain \
    --data_path "${DATA_PATH:?JSON file of image-caption pairs}" \
    --image_folder "${IMAGE_FOLDER:?folder of the images}" \
    --vision_tower "${VISION_TOWER:?folder of the CLIP vision tower}" \
    --pretrain_mm_mlp_adapter "${PROJECTOR:?untrained projector, the same for every run}" \
    --mm_projector_type mlp2x_gelu \
    --tune_mm_mlp_adapter True \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --output_dir "${OUTPUT_DIR:?folder for the projector}" \
    --num_train_epochs "${EPOCHS:-1}" \
    --per_device_train_batch_size "${BATCH_SIZE:-16}" \
    --gradient_accumulation_steps 1 \
    --evaluation_strategy "no" \
    --save_strategy "steps" \
    --save_steps 24000 \
    --save_total_limit 1 \
    --learning_rate "${LEARNING_RATE:-1e-3}" \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type "cosine" \
    --logging_steps "${LOGGING_STEPS:-1}" \
    --model_max_length 2048 \
    --gradient_checkpointing False \
    --dataloader_num_workers "${WORKERS:-0}" \
    --lazy_preprocess True \
    --use_cpu True \
    --seed "${SEED:-42}" \
    --report_to none \
    "$@"
