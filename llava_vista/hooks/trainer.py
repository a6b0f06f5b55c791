"""transformers.Trainer: VISTA is on the model from the moment training begins until `train` returns or raises."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..attach.patching import Replacement
from ..config import VistaConfig
from .process_signs import PROBE_VARIABLE
from .request import REQUEST
from .trainer_session import TrainingSession


def apply(module: ModuleType) -> Callable[[], None]:
    """Patch ``module.Trainer.train`` (transformers.trainer); returns the undo function."""
    original = module.Trainer.train
    signature = inspect.signature(original)

    @functools.wraps(original)
    def train(self: Any, *args: Any, **kwargs: Any) -> Any:
        settled = REQUEST.settle(self.args)
        if os.environ.get(PROBE_VARIABLE):
            from .host_probe import probe_instead  # what a training does not need

            given = signature.bind_partial(self, *args, **kwargs).arguments
            probe_instead(self, settled.config or VistaConfig(), given.get("resume_from_checkpoint"))
        if settled.config is None:
            return original(self, *args, **kwargs)
        REQUEST.act(settled)
        try:
            session = TrainingSession(
                self, settled.config, settled.source, must_act=settled.is_certain, arguments=settled.arguments
            )
            with session:
                return original(self, *args, **kwargs)
        finally:
            REQUEST.end(settled)

    return Replacement(module.Trainer, "train", train).undo
