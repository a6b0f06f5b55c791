#!/bin/bash
# Written for the smoke test, in the manner of LLaVA's script of this name: paths and sizes are hard-coded, and
# `deepspeed` is called once. What reproduce appends has to win.

deepspeed llava/train/train.py \
    --deepspeed ./scripts/zero2.json \
    --model_name_or_path somebody/elses-model \
    --version plain \
    --data_path ./playground/data/not/here.json \
    --image_folder ./playground/data/not/here \
    --vision_tower somebody/elses-tower \
    --mm_projector_type mlp2x_gelu \
    --tune_mm_mlp_adapter True \
    --mm_vision_select_layer -2 \
    --mm_use_im_start_end False \
    --mm_use_im_patch_token False \
    --bf16 True \
    --output_dir ./checkpoints/not-here \
    --num_train_epochs 1 \
    --per_device_train_batch_size 4 \
    --gradient_accumulation_steps 1 \
    --evaluation_strategy "no" \
    --save_strategy "no" \
    --learning_rate 1e-3 \
    --weight_decay 0. \
    --warmup_ratio 0.03 \
    --lr_scheduler_type "cosine" \
    --logging_steps 2 \
    --tf32 True \
    --model_max_length 2048 \
    --lazy_preprocess True \
    --use_cpu True \
    --report_to wandb
