"""What the image adds to each supervised token: log p with the image less log p without it, in nats.

"Without" is the decoder once more, on the arguments that it just got, with the image positions masked out of attention:
the text keeps its position ids, and neither the vision tower nor the merge runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..attach.observation import Observation, Observer
from ..errors import ProbeError
from .accumulation import TOLERANCE

#: Rows of logits that are made float32 at a time.
_CHUNK = 256
#: Largest relative difference from the host's cross-entropy, where logits are float32.
_EXACT = 1e-4


def mask_image(mask: Any, image: Tensor) -> Any:
    """Return a copy of the decoder's attention mask in which the image positions (B, L) are masked out.

    Args:
        mask: None, (B, L) of ones and zeros, (B, 1 or heads, L, L) boolean or additive, or a dict of such.

    Raises:
        ProbeError: a mask of another form.
    """
    if isinstance(mask, dict):
        return {name: mask_image(value, image) for name, value in mask.items()}
    if mask is None:
        return ~image
    if isinstance(mask, Tensor):
        image = image.to(mask.device)
        if mask.shape == image.shape and not mask.dtype.is_floating_point:
            return mask.masked_fill(image, 0)
        if mask.ndim == 4 and mask.shape[-1] == image.shape[1]:
            closed = torch.finfo(mask.dtype).min if mask.dtype.is_floating_point else 0
            return mask.masked_fill(image[:, None, None, :], closed)
    found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise ProbeError(
        f"the decoder got an attention mask of unknown form ({found} for {tuple(image.shape)} positions), so the image "
        "cannot be masked."
    )


def random_state(device: torch.device) -> tuple[Tensor, ...]:
    """Return the state of the random number generators that a forward pass on ``device`` may use."""
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return tuple(states)


@contextmanager
def side_pass(*modules: nn.Module, device: torch.device) -> Iterator[None]:
    """Run modules in evaluation mode, without gradients, and leave no trace of it.

    Restored are random states, buffers, and plain values on the modules (training mode, counters of the model, of
    dynamic position codes, and of ZeRO-3, which counts the gradients that it waits for).
    """
    everything = [module for root in modules for module in root.modules()]
    plain = (bool, int, float, str, type(None), Tensor)
    values = [{name: value for name, value in vars(one).items() if isinstance(value, plain)} for one in everything]
    buffers = [dict(module._buffers) for module in everything]
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for module in everything:
                module.training = False
                # The pass gets copies: a buffer that autograd has saved must not be written to.
                for name, buffer in module._buffers.items():
                    module._buffers[name] = None if buffer is None else buffer.clone()
            yield
        finally:
            for module, before, held in zip(everything, values, buffers, strict=True):
                vars(module).update(before)
                module._buffers.update(held)


class Information(NamedTuple):
    """One decoder pass. Tokens are those with a label, of samples with an image.

    nats (n,): float32, log p with the image less log p without.
    sample (n,): their row. number (n,): 1 for the first supervised token of the sample.
    cross_entropy, supervised (): mean over all tokens with a label, as the training pass has it, and their number.
    tolerance: at which the host's own cross-entropy equals it.
    """

    nats: Tensor
    sample: Tensor
    number: Tensor
    cross_entropy: Tensor
    supervised: Tensor
    tolerance: float


def output_head(inner: nn.Module) -> nn.Module:
    """Return the module that makes logits of the last hidden state.

    Raises:
        ProbeError: the model has none.
    """
    head = inner.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module) or isinstance(head, nn.Embedding):
        raise ProbeError(f"{type(inner).__name__} has no module of its own that makes logits of hidden states.")
    return head


def _masked(observation: Observation) -> dict[str, Any]:
    """Return the arguments of a pass without the image.

    Raises:
        ProbeError: it cannot be masked out, or there are no labels to score.
    """
    layout, hidden, labels = observation.layout, observation.last_hidden_state, observation.labels
    if hidden is None or layout is None or labels is None:
        raise ProbeError(str(observation.problem or "the labels of the merged sequence are not known"))
    if layout.shape != hidden.shape[:2] or layout.spans is not None:
        raise ProbeError("several samples share a row (packing)")
    if observation.arguments.get("past_key_values") is not None:
        raise ProbeError("the decoder got past_key_values")
    return {"attention_mask": mask_image(observation.arguments.get("attention_mask"), layout.image.to(hidden.device))}


def measure(observer: Observer, head: nn.Module, observation: Observation, *, again: bool) -> Information | str | None:
    """Measure one decoder pass that has just returned.

    Under ZeRO-3 and FSDP each call of a module is a collective, so the number of calls depends on ``again`` alone:
    with or without images, labels or a mask that can be changed.

    Args:
        observer: delivers the passes of the model.
        head: makes logits of hidden states.
        observation: of a pass that has returned.
        again: also run the decoder with the image once more, because the pass itself had dropout.

    Returns:
        None for a pass without images or labels; why the pass cannot be measured.
    """
    hidden = observation.last_hidden_state
    if hidden is None:
        return None
    problem, changed = "", {}
    has_images = observation.inputs_embeds is not None
    try:
        changed = _masked(observation) if has_images else {}
    except ProbeError as error:
        problem = str(error)
    same = {**observation.arguments, "past_key_values": None, "use_cache": False}
    known = observer.decoder_parameters
    same = {name: value for name, value in same.items() if name in observation.arguments or name in known}
    measurable = has_images and not problem
    labels = observation.labels if measurable else None
    with ExitStack() as stack:
        stack.enter_context(side_pass(observer.decoder, head, device=hidden.device))
        seen = observer.run_again(same) if again else hidden
        blind = observer.run_again({**same, **changed})
        if labels is None:
            at = torch.zeros((1, 2), dtype=torch.long, device=hidden.device)
            wanted = at[:, 0]
        else:
            labels = labels.to(hidden.device)
            at = (labels[:, 1:] >= 0).nonzero()  # (n, 2), the position before each token
            wanted = labels[at[:, 0], at[:, 1] + 1]
        trained, dtype = _log_probs(head, hidden, at, wanted)
        with_image = _log_probs(head, seen, at, wanted)[0] if again else trained
        without = _log_probs(head, blind, at, wanted)[0]
        if problem or labels is None or observation.layout is None or not len(at):
            return problem or None
        supervised = labels[:, 1:] >= 0
        number = supervised.cumsum(dim=1)[at[:, 0], at[:, 1]]
        counted = observation.layout.image.to(hidden.device).any(dim=1)[at[:, 0]]
        return Information(
            (with_image - without)[counted],
            at[counted, 0],
            number[counted],
            -trained.mean(),
            supervised.sum(),
            _EXACT if dtype == torch.float32 else TOLERANCE,
        )


def _log_probs(head: nn.Module, hidden: Tensor, at: Tensor, wanted: Tensor) -> tuple[Tensor, torch.dtype]:
    """Return log p (n,) float32 of the tokens ``wanted`` (n,) after positions ``at`` (n, 2), and the logits' dtype."""
    rows = hidden.detach()[at[:, 0], at[:, 1]]
    logits = head(rows)  # (n, V)
    parts = [
        -cross_entropy(chunk.float(), ids, reduction="none")
        for chunk, ids in zip(logits.split(_CHUNK), wanted.split(_CHUNK), strict=True)
    ]
    return torch.cat(parts), logits.dtype


def slope_sums(information: Information) -> tuple[Tensor, Tensor]:
    """Return Sxy and Sxx () over the samples of a pass: their ratio is the slope of nats over position.

    About each sample's own mean position, so that a difference between samples is no slope.
    """
    nats, number = information.nats.double(), information.number.double()
    rows = int(information.sample.max()) + 1 if len(nats) else 0
    count = torch.bincount(information.sample, minlength=rows)
    distance = number - (count[information.sample] + 1) / 2  # numbers run from 1 to the count
    return (distance * nats).sum(), distance.square().sum()
