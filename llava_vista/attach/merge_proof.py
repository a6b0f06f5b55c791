"""Proof of a host's merge method: what it returns beside position codes is what it returns with the labels."""

from __future__ import annotations

import inspect
import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import LayoutError

#: Largest difference between embeddings of two runs, relative to the largest entry: some kernels add up in any order.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}

#: Attributes that every module has; and what is looked into among the others.
_OF_TORCH, _CONTAINERS = frozenset(vars(nn.Module())), (dict, list, set)


class HostState:
    """What a merge may change beside its result, so that it can be run twice: random states, buffers, attributes.

    Attributes are those of all modules, with what their dictionaries, lists and sets hold.

    Args:
        model: the host's model.
    """

    def __init__(self, model: nn.Module) -> None:
        self._attributes = [(module, vars(module).copy(), _contents(vars(module))) for module in model.modules()]
        self._generators = [
            (value, value.get_state())
            for module, *_ in self._attributes for value in vars(module).values() if isinstance(value, torch.Generator)
        ]  # fmt: skip
        self._buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
        self._python, self._cpu = random.getstate(), torch.get_rng_state()
        self._devices = {buffer.device for buffer in model.parameters() if buffer.is_cuda}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in self._devices}
        numpy = sys.modules.get("numpy")
        self._numpy = None if numpy is None else numpy.random.get_state()

    def restore(self) -> None:
        """Put everything back."""
        for module, attributes, contents in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
            for container, content in contents:
                container.clear()
                (container.extend if isinstance(container, list) else container.update)(content)
        for generator, state in self._generators:
            generator.set_state(state)
        with torch.no_grad():
            for buffer, value in self._buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
        random.setstate(self._python)
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)

    def changes(self) -> dict[str, Any]:
        """Return what stands in attributes now and did not before, by module and name; containers as copies."""
        found = {}
        for module, attributes, contents in self._attributes:
            before = {id(container): content for container, content in contents}
            for name, value in vars(module).items():
                held = before.get(id(value))
                is_another = name not in attributes or value is not attributes[name]
                if is_another or (held is not None and not _holds(value, held)):
                    found[f"{type(module).__name__}.{name}"] = value.copy() if type(value) in _CONTAINERS else value
        return found


def _contents(attributes: dict[str, Any]) -> list[tuple[Any, Any]]:
    """Return the containers among a module's own attributes, with copies; torch's (parameters, hooks) are left out."""
    return [
        (value, value.copy())
        for name, value in attributes.items()
        if type(value) in _CONTAINERS and name not in _OF_TORCH
    ]


def _holds(container: Any, content: Any) -> bool:
    """Return whether a container holds the very objects of ``content``, in their order."""
    items, others = ([*one.items()] if isinstance(one, dict) else [*one] for one in (container, content))
    return len(items) == len(others) and all(
        left is right or (isinstance(left, tuple) and len(left) == 2 and all(map(operator.is_, left, right)))
        for left, right in zip(items, others, strict=True)
    )


class Replay:
    """Repeats a call of a merge method as it was made, without gradients, and leaves the host as it is.

    The first call of a host may differ from later ones (DeepSpeed's ZeRO-3 on CPUs rounds differently), so repetitions
    are compared with each other. Their number is the same on every rank: they may contain collectives.

    Args:
        model: the host's model.
        method: its own method.
        bound: the arguments, before the host has seen them.
    """

    def __init__(self, model: nn.Module, method: Callable[..., Any], bound: inspect.BoundArguments) -> None:
        self._model, self._method, self._before = model, method, HostState(model)
        #: of the last run: attributes of the host that it changed, and arguments that it wrote into
        self.changes: dict[str, Any] = {}
        self.written: set[str] = set()
        self._given = dict(bound.arguments)
        self._copies = _copied(self._given)
        self.bound = inspect.BoundArguments(bound.signature, OrderedDict(self._copies))

    def run(self, call: inspect.BoundArguments) -> Any:
        """Run the method with ``call``; arguments that the host may have written into meanwhile are as they were."""
        arguments = {
            name: self._copies[name] if value is self._given.get(name) else value
            for name, value in call.arguments.items()
        }
        bound = inspect.BoundArguments(call.signature, OrderedDict(_copied(arguments)))
        after = HostState(self._model)
        self._before.restore()
        try:
            with torch.no_grad():
                result = self._method(*bound.args, **bound.kwargs)
            self.changes = self._before.changes()
            self.written = {name for name, value in arguments.items() if not same(value, bound.arguments[name])}
            return result
        finally:
            after.restore()

    def take_back(self) -> None:
        """Put back what was there before the call, also in the arguments."""
        self._before.restore()
        for given, copy in zip(tree_flatten(self._given)[0], tree_flatten(self._copies)[0], strict=True):
            if isinstance(given, Tensor) and not torch.equal(given, copy):
                with torch.no_grad():
                    given.copy_(copy)


def _copied(values: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments with copies of their tensors."""
    copies: dict[str, Any] = tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, values)
    return copies


class Slots(NamedTuple):
    """Where the values that tell the layout are among those that the method returns; None where there is none."""

    embeds: int | None
    labels: int
    mask: int | None


def find_slots(plain: Sequence[Any], coded: Sequence[Any], codes: Tensor, names: Sequence[str], width: int) -> Slots:
    """Find the embeddings, labels and mask among the returned values. Reads them on the host.

    Args:
        plain, coded: what came back for the labels, and for position codes.
        codes: (B, T) what was passed in the place of the labels.
        names: what the data sheet says, to decide between several that fit; empty where it says nothing.
        width: of the embeddings.

    Raises:
        LayoutError: the labels are not among them, or something is there twice.
    """
    embeds = [
        at for at, value in enumerate(coded)
        if isinstance(value, Tensor) and value.ndim == 3 and value.dtype.is_floating_point
    ]  # fmt: skip
    embeds = [at for at in embeds if coded[at].shape[2] == width] or embeds
    labels = [
        at for at, value in enumerate(coded)
        if isinstance(value, Tensor) and value.dtype == codes.dtype and value.ndim == 2
        and isinstance(plain[at], Tensor) and not same(value, plain[at])
    ]  # fmt: skip
    if not labels:  # where nothing came back but image rows, the data sheet tells
        labels = [at for at, value in enumerate(coded) if value is codes or (names and names[at] == "labels")]
    at_labels = _one("labels", labels, names)
    if at_labels is None:
        raise LayoutError("none of the returned values are the labels, or they did not come back as they went in.")
    at_embeds = _one("inputs_embeds", embeds, names)
    masks = [
        at for at, value in enumerate(coded)
        if at_embeds is not None and isinstance(value, Tensor) and value.shape == coded[at_embeds].shape[:2]
        and at != at_labels and bool(((value == 0) | (value == 1)).all())
    ]  # fmt: skip
    return Slots(at_embeds, at_labels, _one("attention_mask", masks, names))


def _one(name: str, found: list[int], names: Sequence[str]) -> int | None:
    """Return the one place that was found; of several, the one that the data sheet names.

    Raises:
        LayoutError: several were found.
    """
    if len(found) > 1 and name in names and names.index(name) in found:
        return names.index(name)
    if len(found) > 1:
        raise LayoutError(
            f"the returned values {', '.join(map(str, found))} may all be the {name}. A data sheet (register_adapter) "
            "names them: merge_returns."
        )
    return found[0] if found else None


def differences(plain: Sequence[Any], result: Sequence[Any], names: Sequence[str], slots: Slots) -> list[str]:
    """Return the names of the values that are not what the plain run returned. Reads them on the host."""
    known = {slots.embeds: "inputs_embeds", slots.labels: "labels", slots.mask: "attention_mask"}
    return [
        known.get(at) or (names[at] if at < len(names) else f"value {at}")
        for at, (left, right) in enumerate(zip(plain, result, strict=True))
        if not same(left, right)
    ]


def different_changes(plain: dict[str, Any], coded: dict[str, Any]) -> list[str]:
    """Return the names of attributes that two runs have left with other tensors or integers."""

    def numbers(changes: dict[str, Any], name: str) -> list[Any]:
        return [leaf for leaf in tree_flatten(changes.get(name))[0] if isinstance(leaf, (Tensor, int))]

    return [name for name in {**plain, **coded} if not same(numbers(plain, name), numbers(coded, name))]


def same(left: Any, right: Any) -> bool:
    """Return whether two returned values are equal, embeddings up to rounding."""
    lefts, form = tree_flatten(left)
    rights, other = tree_flatten(right)
    return form == other and all(_same_leaf(a, b) for a, b in zip(lefts, rights, strict=True))


def _same_leaf(left: Any, right: Any) -> bool:
    if not isinstance(left, Tensor) or not isinstance(right, Tensor):
        # Anything else (a cache) is another object in a second run, and no part of the layout.
        return type(left) is type(right) and (not isinstance(left, (int, float, str)) or left == right)
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if torch.equal(left, right) or not left.dtype.is_floating_point:
        return torch.equal(left, right)
    left, right = left.detach(), right.detach()
    finite = right[right.isfinite()]
    tolerance = TOLERANCE.get(left.dtype, 1e-2) * (float(finite.abs().max()) if finite.numel() else 0.0)
    return torch.allclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True)
