"""VISTA's options where people filter runs: in the configuration of a W&B run, and in TensorBoard's text."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..config import FLAG, FLAG_PREFIX, VistaConfig
from ..logging import warn_once


def report_options(trainer: Any, config: VistaConfig) -> None:
    """Tell the trackers that the trainer itself has started; on its first process only."""
    options = {FLAG: True, **{f"{FLAG_PREFIX}{name}": value for name, value in config.to_dict().items()}}
    wandb = sys.modules.get("wandb")
    reported = {type(callback).__name__ for callback in trainer.callback_handler.callbacks}
    try:
        if "WandbCallback" in reported and getattr(wandb, "run", None) is not None:
            wandb.config.update(options, allow_val_change=True)  # type: ignore[union-attr]
        for callback in trainer.callback_handler.callbacks:
            writer = getattr(callback, "tb_writer", None)
            if writer is not None:
                writer.add_text(FLAG, json.dumps(options, indent=2))
    except Exception as error:  # noqa: BLE001  (a tracker may raise anything, and stops no training)
        warn_once(f"VISTA's options could not be added to the tracker's run ({error!r}); {FLAG}.json has them.")
