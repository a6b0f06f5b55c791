"""transformers.Trainer: VISTA is on the model from the moment training begins until `train` returns or raises."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..attach.patching import Replacement
from .packing_arguments import refuse_unmarked_packing
from .request import REQUEST
from .trainer_session import TrainingSession


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.Trainer.train`` (transformers.trainer); returns the undo function."""
    original = module.Trainer.train

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        settled = REQUEST.settle(self.args)
        if settled.config is None:
            return original(self, *args, **kwargs)
        if settled.config.weight > 0:
            refuse_unmarked_packing([self.args, *REQUEST.made_beside(self.args)])
        REQUEST.act(settled)
        try:
            with TrainingSession(self, settled.config, settled.source, must_act=settled.is_certain):
                return original(self, *args, **kwargs)
        finally:
            REQUEST.end(settled)

    return Replacement(module.Trainer, "train", train).undo
