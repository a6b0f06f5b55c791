"""The checks of the conformance kit. Each takes a case, and raises AssertionError with what was found and expected."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters import find_adapter
from ..attach.handle import attach
from ..config import VistaConfig
from .case import Case, Skipped

CHECKS: dict[str, Callable[[Case], None]] = {}
#: Where one of these fails, no other can hold.
OF_THE_LAYOUT = ("text_embeddings", "text_order", "image_rows")


def _check(function: Callable[[Case], None]) -> Callable[[Case], None]:
    CHECKS[function.__name__] = function
    return function


def _require(condition: bool, words: str) -> None:
    if not condition:
        raise AssertionError(words)


def _same(left: dict[str, Tensor], right: dict[str, Tensor], what: str) -> None:
    """Require bitwise equality."""
    _require(left.keys() == right.keys(), f"{what}: other parameters: {sorted(left.keys() ^ right.keys())[:5]}")
    different = [name for name in left if not torch.equal(left[name], right[name])]
    _require(not different, f"{what}: {len(different)} of {len(left)} differ, first {different[:3]}")


def _close(left: Tensor, right: Tensor, what: str, relative: float = 1e-4) -> None:
    error = float((left - right).abs().max()) if left.numel() else 0.0
    scale = max(float(right.abs().max()) if right.numel() else 0.0, 1e-12)
    _require(error <= relative * scale, f"{what}: off by {error:.2e} where the largest value is {scale:.2e}")


@_check
def text_embeddings(case: Case) -> None:
    """Check that the decoder gets rows of the embedding table at text positions, up to one scale."""
    seen = case.see()
    text = seen.embeds[seen.layout.text].detach()
    _require(len(text) > 0, "no text position was found in the batch")
    if not torch.equal(text, seen.rows):
        at = seen.rows.abs().argmax()
        _close(text, seen.rows * (text.flatten()[at] / seen.rows.flatten()[at]), "embeddings at text positions", 1e-5)


@_check
def text_order(case: Case) -> None:
    """Check that a row's text is its attended tokens, in order, but for placeholders and a truncated end."""
    seen = case.see()
    adapter, inner = find_adapter(case.model())
    other = adapter.other_ids(inner)
    placeholders: set[int] = set()
    for row, (ids, mask) in enumerate(zip(seen.input_ids, seen.mask, strict=True)):
        wanted = ids[mask].tolist()
        found = seen.token_ids[row][seen.layout.text[row]].tolist()
        missing, position = [], 0
        for token in wanted:
            if position < len(found) and found[position] == token:
                position += 1
            else:
                missing.append(token)
        _require(position == len(found), f"row {row}: text {found[:20]} is not a part, in order, of {wanted[:20]}")
        # A maximum length may have cut off what is missing after the last text token.
        kept = wanted[: len(wanted) - _tail(wanted, found)] if found else []
        placeholders.update(_difference(kept, found))
        missing = [token for token in missing if token not in other]
        _require(
            not missing or bool(seen.layout.image[row].any()),
            f"row {row}: tokens {missing[:5]} are missing from the text, and the row has no image",
        )
    common = placeholders & set(seen.token_ids[seen.layout.text].tolist())
    _require(not common, f"tokens {sorted(common)[:5]} are text in one place and missing in another")


def _tail(wanted: list[int], found: list[int]) -> int:
    """Return the number of tokens in ``wanted`` after the last one of ``found``."""
    return len(wanted) - 1 - max(index for index, token in enumerate(wanted) if token == found[-1])


def _difference(wanted: list[int], found: list[int]) -> set[int]:
    return {token for token in wanted if wanted.count(token) > found.count(token)}


@_check
def image_rows(case: Case) -> None:
    """Check that image positions hold image features: no padding, rows of the embedding table as separators only."""
    seen = case.see()
    _require(bool(seen.layout.image.any()), "no image position was found; the batch needs an image")
    _require(not bool((seen.layout.image & seen.layout.text).any()), "a position is both image and text")
    image = seen.embeds[seen.layout.image].detach()  # (N, d)
    # by way of a matrix product, equal rows would have a distance
    distance = torch.cdist(image, seen.input_rows, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
    copies = int((distance == 0).sum())
    _require(2 * copies <= len(image), f"{copies} of {len(image)} image positions hold an embedding of a token")
    _require(bool((image.norm(dim=1) > 0).all()), "an image position holds zeros, as padding does")


@_check
def last_hidden_state(case: Case) -> None:
    """Check that the observed hidden state is what the output layer reads, after the final norm, up to one scale."""
    seen, model = case.see(), case.model()
    _, inner = find_adapter(model)
    head = inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None  # type: ignore[operator]
    read: list[Tensor] = []
    if isinstance(head, nn.Module):
        # Not the logits: hosts scale and cap them.
        head.register_forward_pre_hook(lambda module, args: read.append(args[0].detach()))
        case.run(model)
    if not read or read[-1].shape != seen.hidden.shape:
        raise Skipped("the model has no output layer that reads every position")
    at = seen.hidden.abs().argmax()
    scale = read[-1].flatten()[at] / seen.hidden.detach().flatten()[at]
    _close(read[-1], seen.hidden.detach() * scale, "input of the output layer", 1e-4)


@_check
def term_by_value(case: Case) -> None:
    """Check the term against the equation, computed here by loops in float64."""
    seen, model = case.see(), case.model()
    handle = attach(model, add_to_loss=False)
    case.run(model)
    embeds, hidden = seen.embeds.detach().double(), seen.hidden.detach().double()
    values = []
    for row in range(len(embeds)):
        text, image = seen.layout.text[row].nonzero()[:, 0].tolist(), seen.layout.image[row].nonzero()[:, 0].tolist()
        if text and image:
            anchor = hidden[row, image[-1]]
            terms = [t / len(text) * ((anchor - embeds[row, at]) ** 2).mean() for t, at in enumerate(text, start=1)]
            values.append(sum(terms) / len(text))
    _require(bool(values), "no sample of the batch has both an image and text")
    expected = sum(values) / len(values)
    found = handle.loss().detach().double()
    handle.detach()
    _require(abs(float(found - expected)) <= 1e-5 * max(1.0, float(expected)), f"{found} instead of {expected}")


@_check
def weight_zero(case: Case) -> None:
    """Check that weight 0 leaves the loss and every gradient bit-identical."""
    plain_loss, plain = case.gradients(case.model())
    model = case.model()
    handle = attach(model, VistaConfig(weight=0.0))
    loss, found = case.gradients(model)
    handle.detach()
    _require(torch.equal(loss, plain_loss), f"loss {loss} instead of {plain_loss}")
    _same(found, plain, "gradients")


@_check
def term_in_loss_and_gradients(case: Case) -> None:
    """Check loss and gradients of cross-entropy + weight * VISTA against separate backward passes."""
    plain_loss, plain = case.gradients(case.model())
    observed = case.model()
    handle = attach(observed, add_to_loss=False)
    case.run(observed)
    term = handle.loss()
    term.backward()  # type: ignore[no-untyped-call]
    alone = {name: value.grad for name, value in observed.named_parameters() if value.grad is not None}
    handle.detach()
    model = case.model()
    handle = attach(model, VistaConfig(weight=3.0))
    loss, found = case.gradients(model)
    handle.detach()
    _close(loss, plain_loss + 3 * term.detach(), "loss", 1e-5)
    _require(any(bool(value.any()) for value in alone.values()), "the term has no gradient")
    largest = max(float(value.abs().max()) for value in found.values())
    for name, value in found.items():
        expected = plain.get(name, torch.zeros_like(value)) + 3 * alone.get(name, torch.zeros_like(value))
        error = float((value - expected).abs().max())
        # Two backward passes are added in another order than one.
        _require(error <= 5e-5 * largest, f"gradient of {name} off by {error:.2e}, the largest is {largest:.2e}")


@_check
def evaluation(case: Case) -> None:
    """Check that an attached model in evaluation mode gives the plain loss."""
    with torch.no_grad():
        plain = case.loss(case.model().eval())
        model = case.model().eval()
        handle = attach(model)
        found = case.loss(model)
        handle.detach()
    _require(torch.equal(found, plain), f"loss {found} instead of {plain}")


def _traces(model: nn.Module) -> dict[str, Any]:
    """Return what attaching might leave behind: hooks, attributes of instances and of their classes."""
    traces: dict[str, Any] = {}
    for name, module in model.named_modules():
        traces[f"{name} hooks"] = [
            dict(hooks) for key, hooks in vars(module).items() if key.endswith("_hooks") and isinstance(hooks, dict)
        ]
        traces[f"{name} attributes"] = sorted(vars(module))
        for cls in type(module).__mro__:
            traces[f"class {cls.__module__}.{cls.__qualname__}"] = dict(vars(cls))
    return traces


class _Interrupted(Exception):
    pass


def _interrupt(*args: Any) -> None:
    raise _Interrupted


@_check
def detach_restores(case: Case) -> None:
    """Check that detach restores everything, also after an exception in the decoder."""
    model = case.model()
    case.run(model)  # a first forward may fill the host's own caches
    before, plain = _traces(model), case.loss(model).detach()
    handle = attach(model)
    case.loss(model).backward()
    interruption = handle.decoder.register_forward_hook(_interrupt)
    try:
        case.run(model)
    except _Interrupted:
        interrupted = True
    else:
        interrupted = False
    interruption.remove()
    _require(interrupted, "an exception inside the decoder did not come through")
    handle.detach()
    model.zero_grad()
    after = _traces(model)
    left = [name for name in before if before[name] != after.get(name)]
    _require(not left, f"changed after detach: {left[:5]}")
    _require(torch.equal(case.loss(model).detach(), plain), "the loss after detach is not the plain one")


@_check
def deep_copy(case: Case) -> None:
    """Check that a deep copy of an attached model is a plain model, and that the original stays attached."""
    model = case.model()
    plain = case.loss(model).detach()
    handle = attach(model)
    total = case.loss(model).detach()
    twin = copy.deepcopy(model)
    _require(torch.equal(case.loss(twin).detach(), plain), "the copy's loss is not the plain one")
    _require(torch.equal(case.loss(model).detach(), total), "copying changed the attached model's loss")
    handle.detach()


@_check
def save_and_load(case: Case) -> None:
    """Check that an attached model saves and loads as the plain one does."""
    model = case.model()
    keys = list(model.state_dict())
    if not hasattr(model, "save_pretrained"):
        reloaded = None
    else:
        try:
            reloaded = _reloaded_loss(case, model)  # hosts load their vision tower later, or make it again
        except Exception as error:
            raise Skipped(f"the host's own model does not run after from_pretrained: {error}") from error
    handle = attach(model)
    try:
        _require(list(model.state_dict()) == keys, "attaching changed the keys of the state dict")
        if reloaded is None:
            raise Skipped("state dict only: the model has no save_pretrained")
        _require(torch.equal(_reloaded_loss(case, model), reloaded), "the loaded model's loss is not the plain one")
    finally:
        handle.detach()


def _reloaded_loss(case: Case, model: nn.Module) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)  # type: ignore[operator]
        torch.manual_seed(0)  # for what the checkpoint does not hold
        loaded = type(model).from_pretrained(folder).to(next(model.parameters()).device)  # type: ignore[attr-defined]
        return case.loss(loaded.train()).detach()


@_check
def gradient_checkpointing(case: Case) -> None:
    """Check that gradient checkpointing, which runs layers twice, keeps the term and its gradient."""
    model = case.model()
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise Skipped("the model does not support it")
    handle = attach(model)
    loss, plain = case.gradients(model)
    handle.detach()
    # Up to transformers 4.34, and in hosts that override it, the method takes no options.
    takes_options = bool(inspect.signature(model.gradient_checkpointing_enable).parameters)  # type: ignore[arg-type]

    def checkpointed(reentrant: bool) -> nn.Module:
        model = case.model()
        model.gradient_checkpointing_enable(*([{"use_reentrant": reentrant}] if takes_options else []))  # type: ignore[operator]
        if reentrant:
            model.enable_input_require_grads()  # type: ignore[operator]
        return model

    for reentrant in (False, True) if takes_options else (True,):
        try:
            case.gradients(checkpointed(reentrant))
        except Exception as error:
            raise Skipped(f"fails without VISTA: {error}") from error
        model = checkpointed(reentrant)
        handle = attach(model)
        total, found = case.gradients(model)
        handle.detach()
        way = "reentrant" if reentrant else "not reentrant"
        _close(total, loss, f"loss ({way})", 1e-6)
        largest = max(float(value.abs().max()) for value in plain.values())
        for name, value in found.items():
            off = float((value - plain[name]).abs().max()) if name in plain else 0.0
            _require(off <= 1e-5 * largest, f"gradient of {name} ({way}) off by {off:.2e}")


@_check
def peft(case: Case) -> None:
    """Check that the term is the same in a PEFT model, whose new LoRA changes no number, and trains the LoRA."""
    if importlib.util.find_spec("peft") is None:
        raise Skipped("peft is not installed")
    from peft import LoraConfig, get_peft_model  # type: ignore[attr-defined]

    model = case.model()
    handle = attach(model, add_to_loss=False)
    case.run(model)
    expected = handle.loss().detach()
    handle.detach()
    adapter, inner = find_adapter(model)
    decoder = adapter.decoder(inner)
    inside = {id(module) for module in decoder.modules()}
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and id(module) in inside]
    if not linear:
        raise Skipped("the decoder has no nn.Linear to adapt")
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=linear[:4])).train()
    handle = attach(wrapped, add_to_loss=False)
    case.run(wrapped)
    term = handle.loss()
    term.backward()  # type: ignore[no-untyped-call]
    handle.detach()
    _close(term.detach(), expected, "term inside PEFT", 1e-6)
    reached = [name for name, value in wrapped.named_parameters() if value.grad is not None and bool(value.grad.any())]
    _require(any("lora" in name for name in reached), "no LoRA weight got a gradient from the term")
