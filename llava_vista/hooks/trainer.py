"""transformers.Trainer: VISTA is on the model from the moment training begins until `train` returns or raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..attach.patching import Replacement
from .request import REQUEST
from .trainer_session import TrainingSession


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.Trainer.train`` (transformers.trainer); returns the undo function."""
    original = module.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = REQUEST.config()
        if config is None:
            return original(self, *args, **kwargs)
        REQUEST.acted = True
        with TrainingSession(self, config):
            return original(self, *args, **kwargs)

    return Replacement(module.Trainer, "train", train).undo
