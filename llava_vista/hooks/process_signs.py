"""Signs of what a process has done: has it trained something, or have its children worked? For messages at exit."""

from __future__ import annotations

import os
import sys

from ..logging import warn_once

#: A folder: measure instead of training (host_probe.py), over so many batches.
PROBE_VARIABLE, PROBE_BATCHES_VARIABLE = "LLAVA_VISTA_PROBE", "LLAVA_VISTA_PROBE_BATCHES"


def tell_if_not_probed() -> None:
    """Warn, at exit, where a measurement was asked for and the process trained. After one, no process gets here."""
    if os.environ.get(PROBE_VARIABLE) and optimizer_was_made():
        warn_once(
            f"{PROBE_VARIABLE} is set, but nothing was measured: this process trained without transformers.Trainer."
        )


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


def children_seconds() -> float:
    """Return the CPU time of the child processes that have ended (seconds)."""
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
