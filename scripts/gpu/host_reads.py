"""Part "no-sync": between two logs, VISTA makes the host wait for the device nowhere.

On a GPU, CUDA's own synchronisation debug mode decides. Elsewhere a mode counts what would wait on a GPU, by the
functions that Python calls: reading a tensor, boolean-mask indexing, and numbers that become tensors.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from cases import METHODS, make_case
from findings import Findings, Options, require
from llava_step import SIZES, Trainee
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava_vista import AlignmentHead, VistaConfig
from llava_vista.attach.meter import Meter

#: Functions whose result the host needs before it goes on.
READS = frozenset(
    [
        "item",
        "tolist",
        "__bool__",
        "__int__",
        "__float__",
        "__index__",
        "__contains__",
        "nonzero",
        "argwhere",
        "masked_select",
        "unique",
        "equal",
        "is_nonzero",
        "allclose",
        "cpu",
        "numpy",
        "tensor",
    ]
)


class CountReads(TorchFunctionMode):
    """Counts the calls that would make the host wait for a GPU; ``seen`` has their names."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in READS:
            self.seen.append(name)
        # A number beside tensors becomes a tensor on the host, which is then copied to the device.
        elif name == "where" and (len(args) == 1 or any(not isinstance(value, Tensor) for value in args[1:])):
            self.seen.append("where with a number")
        elif name in ("__getitem__", "__setitem__") and any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1])
        ):
            self.seen.append(f"{name} with a mask")
        return function(*args, **(kwargs or {}))


class MixedDevices(TorchDispatchMode):
    """Fails on an operation whose tensors are on different devices."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = {leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        require(
            len(found) < 2, f"{function.name()} gets tensors on {sorted(found)}: one is copied while the host waits"
        )
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def count_waits(device: str) -> Iterator[list[str]]:
    """Collect what made the host wait, or would on a GPU."""
    if device == "cpu":
        with CountReads() as mode:
            yield mode.seen
        return
    seen: list[str] = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield seen
        finally:
            torch.cuda.set_sync_debug_mode("default")
    seen += [f"{w.filename}:{w.lineno}" for w in caught if "synchronizing CUDA operation" in str(w.message)]


@contextlib.contextmanager
def forbid_waits(device: str) -> Iterator[None]:
    """Fail where the host waits: on a GPU at the operation itself."""
    if device == "cpu":
        with count_waits(device) as seen:
            yield
        require(not seen, f"the host would wait for {', '.join(seen)}")
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def objective_and_meter(method: str, device: str) -> Callable[[], None]:
    """Return one step of the objective on tensors that exist already: forward, backward and the running sums."""
    case, meter = make_case((2, 48, 32), torch.bfloat16, device, trained=True), Meter()

    def step() -> None:
        terms = AlignmentHead(VistaConfig(method=method))(case.inputs_embeds, case.hidden, case.layout)
        terms.loss.backward()
        meter.add_terms(terms, 3)
        meter.add_cross_entropy(terms.loss, case.layout.text.long(), 3)

    return step


def run(findings: Findings, options: Options) -> None:
    """Run the objective alone, where nothing may wait, then whole steps, where the host itself may."""
    for method in METHODS:
        with findings.attempt(f"objective and meter, {method}"):
            step = objective_and_meter(method, options.device)
            step()
            with forbid_waits(options.device):
                step()
            findings.add(f"objective and meter, {method}", "0 waits", goal="0")
        with findings.attempt(f"operations that mix devices, {method}"):
            step = objective_and_meter(method, "meta")
            with MixedDevices(), patch("torch.autocast", lambda **options: contextlib.nullcontext()):
                step()  # autocast knows no "meta", where tensors have no data and so cannot be read either
            findings.add(f"operations that mix devices, {method}", "none")
    for size in ("tiny", "tiny, LoRA"):
        check = f"waits in a training step between logs, Llava {size}"
        with findings.attempt(check):
            trainee, waits = Trainee(SIZES[size], options.device), {}
            trainee.fit_batch()
            for on in (False, True):
                trainee.vista(on)  # the first batch's checks may read
                with count_waits(options.device) as seen:
                    trainee.step()
                    trainee.step()
                waits[on] = len(seen)
            extra = waits[True] - waits[False]
            require(extra == 0, f"{extra} more with VISTA than without ({waits[False]}): {seen}")
            findings.add(check, f"0 of VISTA's (the host's own: {waits[False] // 2})", goal="0")
