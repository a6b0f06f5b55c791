"""Whether this process measures instead of training, and whether it has trained. Imports no torch."""

from __future__ import annotations

import sys

#: A folder: measure instead of training (host_probe.py), over so many batches.
PROBE_VARIABLE, PROBE_BATCHES_VARIABLE = "LLAVA_VISTA_PROBE", "LLAVA_VISTA_PROBE_BATCHES"


def optimizer_was_made() -> bool:
    """Return whether this process has had an optimizer of torch, and so has probably trained something.

    ``torch.optim.Optimizer`` wraps the ``step`` of a class when the first instance is made, and marks it as hooked.
    """
    base = getattr(sys.modules.get("torch.optim"), "Optimizer", None)
    classes = [] if base is None else [base]
    while classes:
        cls = classes.pop()
        if getattr(cls.step, "hooked", False):
            return True
        classes += cls.__subclasses__()
    return False
