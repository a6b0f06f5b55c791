"""Part "no-sync": between two logs, VISTA makes the host wait for the device nowhere.

On a GPU, CUDA's own synchronisation debug mode decides. On a CPU a mode counts what would wait on a GPU, by the
functions that Python calls: reading a tensor, indexing with a mask, making a tensor of numbers.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from cases import METHODS, make_case
from correctness import train
from findings import Findings, Options, require
from llava_step import SIZES, Size, Trainee
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava_vista import AlignmentHead, VistaConfig, install, uninstall
from llava_vista.attach.meter import Meter

READS = """item tolist __bool__ __int__ __float__ __index__ __contains__ nonzero argwhere masked_select unique equal
is_nonzero allclose cpu numpy tensor""".split()  # noqa: SIM905  (one word per function reads better)


class CountReads(TorchFunctionMode):
    """Collects, in ``seen``, the calls that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        takes_mask = name in ("__getitem__", "__setitem__") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1])
        )
        if name in READS or takes_mask or (name == "where" and len(args) == 1):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


class SameDevice(TorchDispatchMode):
    """Fails on an operation whose tensors are on different devices: the host waits for a copy."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        require(len(found) < 2, f"{function.name()} gets tensors on {sorted(found)}")
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def count_waits(device: str) -> Iterator[list[str]]:
    """Collect what makes the host wait, or would on a GPU."""
    if device == "cpu":
        with CountReads() as mode:
            yield mode.seen
        return
    seen: list[str] = []
    with warnings.catch_warnings(record=True) as caught, cuda_complains("warn"):
        warnings.simplefilter("always")
        yield seen
    seen += [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]


@contextlib.contextmanager
def cuda_complains(how: str) -> Iterator[None]:
    """Let CUDA "warn" of, or raise an "error" at, an operation that the host waits for."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode(how)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def objective_and_meter(method: str, device: str) -> Callable[[], None]:
    """Return one step of the objective on tensors that exist already: forward, backward and the running sums."""
    case, meter = make_case((2, 48, 32), torch.bfloat16, device, trained=True), Meter()
    labels = case.layout.text.long()

    def step() -> None:
        terms = AlignmentHead(VistaConfig(method=method))(case.inputs_embeds, case.hidden, case.layout)
        terms.loss.backward()
        meter.add_terms(terms, 3)
        meter.add_cross_entropy(terms.loss, labels, 3)

    return step


def count_in_trainer(device: str) -> dict[bool, int]:
    """Return the waits of two more steps, three batches, of an accumulating Trainer without VISTA and with it."""
    waits = {}
    for on in (False, True):
        totals = []
        for steps in (4, 6):  # what happens once cancels out: set-up, first batches, the record at the end
            if on:
                install()
            with tempfile.TemporaryDirectory() as folder, count_waits(device) as seen:
                train(device, folder, max_steps=steps, logging_steps=10, gradient_accumulation_steps=2)
            uninstall()
            totals.append(len(seen))
        waits[on] = totals[1] - totals[0]
    return waits


def count_in_loop(size: Size, device: str) -> dict[bool, int]:
    """Return the waits of a step of one's own loop without VISTA and with it."""
    trainee, waits = Trainee(size, device), {}
    for on in (False, True):
        trainee.vista(on)  # the first batch's checks may read
        with count_waits(device) as seen:
            trainee.step()
        waits[on] = len(seen)
    return waits


def run(findings: Findings, options: Options) -> None:
    """Run the objective alone, where nothing may wait, then whole steps, where the host itself may."""
    for method in METHODS:
        check = f"objective and running sums, {method}"
        with findings.attempt(check):
            step = objective_and_meter(method, options.device)
            step()
            if options.device == "cuda":
                with cuda_complains("error"):
                    step()
            with count_waits(options.device) as seen:
                step()
            require(not seen, f"the host waits for {', '.join(seen)}")
            # A "meta" tensor has no data to read, and is on another device than what is made on the host; autocast
            # does not know it.
            with SameDevice(), patch("torch.autocast", lambda **options: contextlib.nullcontext()):
                objective_and_meter(method, "meta")()
            findings.add(check, "0 waits, no copy from the host", goal="0")
    for name, count in {
        "own loop": partial(count_in_loop, SIZES["tiny"]),
        "own loop, LoRA, gradient checkpointing": partial(count_in_loop, SIZES["tiny, LoRA"]),
        "Trainer, accumulation": count_in_trainer,
    }.items():
        check = f"training step between logs, Llava, {name}"
        with findings.attempt(check):
            waits = count(options.device)
            require(waits[True] == waits[False], f"{waits[True]} waits with VISTA, {waits[False]} without")
            findings.add(check, f"0 waits of VISTA's; the host's own: {waits[False]}", goal="0")
