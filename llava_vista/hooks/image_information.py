"""What the image adds to each supervised token: log p with the image less log p without it, in nats.

"Without" is the decoder once more, on the arguments that it just got, with the image positions masked out of attention:
the text keeps its position ids, and neither the vision tower nor the merge runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..attach.observation import Observation, Observer
from ..errors import ProbeError
from ..layout import SequenceLayout
from ..objective.head import number_text, of_each_position
from ..objective.text_sums import per_sample, wide
from .accumulation import TOLERANCE

#: Rows of logits that are made float32 at a time.
_CHUNK = 256
#: Largest relative difference from the host's cross-entropy, where logits are float32.
_EXACT = 1e-4
#: What a host may do to its head's logits, by the name of the value in its configuration.
_LOGIT_MAPS: dict[str, Callable[[float, Tensor], Tensor]] = {
    "final_logit_softcapping": lambda cap, logits: cap * torch.tanh(logits / cap),
    "logit_scale": lambda factor, logits: factor * logits,
    "logits_scaling": lambda divisor, logits: logits / divisor,
}


def mask_image(mask: Any, image: Tensor) -> Any:
    """Return a copy of the decoder's attention mask in which the image positions (B, L) are masked out.

    Args:
        mask: None, (B, L) of ones and zeros, (B, 1 or heads, L, L) boolean or additive, or a dict of such.
    """
    if isinstance(mask, dict):
        return {name: mask_image(value, image) for name, value in mask.items()}
    if mask is None:
        return ~image
    found = type(mask).__name__
    if isinstance(mask, Tensor):
        image = image.to(mask.device)
        if mask.shape == image.shape and not mask.dtype.is_floating_point:
            return mask.masked_fill(image, 0)
        if mask.ndim == 4 and mask.shape[-1] == image.shape[1]:
            closed = torch.finfo(mask.dtype).min if mask.dtype.is_floating_point else 0
            return mask.masked_fill(image[:, None, None, :], closed)
        found = f"{mask.dtype} {tuple(mask.shape)}"
    raise ProbeError(
        f"the decoder got an attention mask of unknown form ({found} for {tuple(image.shape)} positions), so the image "
        "cannot be masked."
    )


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
    """One decoder pass. Its n tokens are those with a label, of samples with an image.

    A host may cap or scale its logits; K counts the ways that `logit_maps` found, and the host's own loss tells which.

    with_image, without (K, n): log p, float32.
    sample (n,): the number of the token's row, or span. number (n,): 1 for the first supervised token of the sample.
    cross_entropy (K,), supervised (): mean over all tokens with a label, as the training pass has it, and their number.
    tolerance: at which the host's own cross-entropy equals it.
    """

    with_image: Tensor
    without: Tensor
    sample: Tensor
    number: Tensor
    cross_entropy: Tensor
    supervised: Tensor
    tolerance: float

    @property
    def nats(self) -> Tensor:
        """(K, n) what the image adds to each token."""
        return self.with_image - self.without


def output_head(inner: nn.Module) -> nn.Module:
    """Return the module that makes logits of the last hidden state, or raise ProbeError where there is none."""
    head = inner.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module) or isinstance(head, nn.Embedding):
        raise ProbeError(f"{type(inner).__name__} has no module of its own that makes logits of hidden states.")
    return head


def logit_maps(inner: nn.Module) -> list[Callable[[Tensor], Tensor]]:
    """Return what the host may do to its head's logits: nothing, or what its configuration has values for.

    A class may ignore a value that its configuration holds (Gemma 3 with images, an older PaliGemma), so these are only
    candidates.
    """
    config: Any = getattr(inner, "config", None)
    known = hasattr(config, "get_text_config")
    text = config.get_text_config() if known else getattr(config, "text_config", config)
    found = [partial(change, value) for name, change in _LOGIT_MAPS.items() if (value := getattr(text, name, None))]
    return [lambda logits: logits, *found]


def _without_image(observation: Observation) -> tuple[dict[str, Any], Tensor, SequenceLayout]:
    """Return the arguments that a pass without the image changes, the labels (B, L) to score, and their layout."""
    layout, hidden, labels = observation.layout, observation.last_hidden_state, observation.labels
    if hidden is None or layout is None or labels is None:
        raise ProbeError(str(observation.problem or "the labels of the merged sequence are not known"))
    mask = observation.arguments.get("attention_mask")
    if layout.shape != hidden.shape[:2] or (layout.spans is not None and not _separates(mask)):
        raise ProbeError(
            "several samples share a row (packing), and no attention mask keeps them apart that the image could be "
            "taken out of"
        )
    for name, value in observation.arguments.items():
        # A cache that was empty holds this pass now.
        continues = _is_cache(value) and value.get_seq_length() > hidden.shape[1]
        if continues or (name == "past_key_values" and isinstance(value, (tuple, list))):
            raise ProbeError(f"the decoder continues from {name}")
    return {"attention_mask": mask_image(mask, layout.image.to(hidden.device))}, labels, layout


def _is_cache(value: Any) -> bool:
    return hasattr(value, "get_seq_length")


def _separates(mask: Any) -> bool:
    """Return whether the mask itself keeps the samples of a row apart: by (L, L) blocks, or by their numbers.

    Position ids or lengths alone do so only where there is no mask, and a mask would join the samples.
    """
    if isinstance(mask, dict):
        return all(map(_separates, mask.values()))
    if not isinstance(mask, Tensor):
        return False
    return mask.ndim == 4 or (mask.dtype != torch.bool and bool((mask > 1).any()))


def _numbered(labels: Tensor, layout: SequenceLayout) -> tuple[Tensor, Tensor]:
    """Return the sample of each supervised position (B, L), and the number of its token there, from 1.

    The sample is -1 where there is no label, no image, or nothing before the token in its sample that predicts it.
    """
    wanted = labels >= 0
    starts = [(slice(None), 0)] if layout.spans is None else [(span.row, span.start) for span in layout.spans]
    for at in starts:
        wanted[at] = False
    has_image = per_sample(torch.any, layout.image.to(labels.device), layout.spans)  # (N,)
    number = torch.arange(1, len(has_image) + 1, device=labels.device).masked_fill(~has_image, 0)
    sample = of_each_position(number, layout).expand_as(labels) - 1
    return sample.masked_fill(~wanted, -1), number_text(wanted, layout.spans)[0]


def measure(
    observer: Observer, head: nn.Module, observation: Observation, *, again: bool = False
) -> Information | str | None:
    """Measure one decoder pass that has returned.

    Under ZeRO-3 and FSDP each call of a module is a collective, so the number of calls depends on ``again`` alone:
    with or without images, labels or a mask that can be changed.

    Args:
        head: makes logits of hidden states.
        again: also run the decoder with the image once more, because the pass itself had dropout.

    Returns:
        None for a pass without images or labels; why the pass cannot be measured.
    """
    hidden = observation.last_hidden_state
    if hidden is None:
        return None
    changed: dict[str, Any] = {}
    problem, layout, labels = "", None, torch.zeros((1, 2), dtype=torch.long)
    try:
        if observation.inputs_embeds is not None:
            changed, labels, layout = _without_image(observation)
    except ProbeError as error:
        problem = str(error)
    # transformers renames the cache now and then, and would append this pass to it.
    same = {name: None if _is_cache(value) else value for name, value in observation.arguments.items()}
    if "use_cache" in same or "use_cache" in observer.decoder_parameters:
        same["use_cache"] = False
    labels = labels.to(hidden.device)
    at = (labels[:, 1:] >= 0).nonzero()  # (n, 2), the position before each token
    here = (at[:, 0], at[:, 1] + 1)
    with side_pass(observer.decoder, head, device=hidden.device):
        seen = observer.run_again(same) if again else hidden
        blind = observer.run_again({**same, **changed})
        maps, wanted = logit_maps(observer.inner), labels[here]
        trained, dtype = _log_probs(head, maps, hidden, at, wanted)
        with_image = _log_probs(head, maps, seen, at, wanted)[0] if again else trained
        without = _log_probs(head, maps, blind, at, wanted)[0]
    if layout is None or not len(at):
        return problem or None
    sample, number = (one[here] for one in _numbered(labels, layout))
    counted = sample >= 0
    return Information(
        with_image[:, counted],
        without[:, counted],
        sample[counted],
        number[counted],
        -trained.mean(dim=1),
        (labels[:, 1:] >= 0).sum(),
        _EXACT if dtype == torch.float32 else TOLERANCE,
    )


def _log_probs(
    head: nn.Module, maps: list[Callable[[Tensor], Tensor]], hidden: Tensor, at: Tensor, wanted: Tensor
) -> tuple[Tensor, torch.dtype]:
    """Return log p (K, n) float32 of tokens ``wanted`` (n,) after positions ``at`` (n, 2), and the logits' dtype."""
    logits = head(hidden.detach()[at[:, 0], at[:, 1]])  # (n, V)
    parts = [
        torch.stack([-cross_entropy(change(chunk).float(), ids, reduction="none") for change in maps])
        for chunk, ids in zip(logits.split(_CHUNK), wanted.split(_CHUNK), strict=True)
    ]
    return torch.cat(parts, dim=1), logits.dtype


def slope_sums(values: Tensor, sample: Tensor, number: Tensor, samples: int) -> tuple[Tensor, Tensor]:
    """Return Sxy and Sxx (samples,) of values (n,) over the number (n,) of their token in its sample (n,).

    Their sums' ratio is the slope. They are about each sample's own means, so a difference between samples is no slope.
    """
    none = wide(torch.zeros(samples, device=values.device))
    values, number = wide(values), wide(number)
    mean = none.index_add(0, sample, number) / torch.bincount(sample, minlength=samples).clamp(min=1)
    distance = number - mean[sample]
    return none.index_add(0, sample, distance * values), none.index_add(0, sample, distance.square())
