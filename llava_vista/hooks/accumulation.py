"""By how much the loss that `Trainer.compute_loss` returns is divided already, for gradient accumulation."""

from __future__ import annotations

from typing import Any


def loss_divisor(trainer: Any, num_items_in_batch: Any) -> float:
    """What a mean over one micro-batch must be divided by before it is added to the loss of `compute_loss`.

    Whatever comes after `compute_loss` (the trainer's, accelerate's or DeepSpeed's division, a loss scaler) acts on
    cross-entropy and VISTA alike. So one thing decides: is the cross-entropy a mean over the micro-batch (1), or a sum
    that is normalised over all k accumulated micro-batches by ``num_items_in_batch`` already (k)? Asked of attributes,
    not versions: `model_accepts_loss_kwargs` came with transformers 4.46, `loss_is_scaled_for_ga` with 5.19,
    `current_gradient_accumulation_steps` with 4.55. Where a version itself scales wrongly (4.46.0-4.48.0, 5.2-5.5.3),
    the term is scaled as its cross-entropy is.
    """
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = num_items_in_batch is not None and (
            bool(getattr(trainer, "model_accepts_loss_kwargs", False))
            or getattr(trainer, "compute_loss_func", None) is not None
        )
    if not scaled:
        return 1.0
    current = getattr(trainer, "current_gradient_accumulation_steps", None)
    return float(current or trainer.args.gradient_accumulation_steps)
