"""The objective as a listener: the passes of one forward, or of one compute_loss, become one VISTA term."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import VistaConfig
from ..errors import LayoutError
from ..objective import AlignmentHead, AlignmentTerms, Text
from .observation import Observation


class DecoderPass(NamedTuple):
    """What the term needs of one decoder pass. Holds no (B, L, d) tensor.

    Attributes:
        text, anchors: see `AlignmentHead`; None when no layout was known.
        has_gradient: the pass ran with gradients enabled.
        problem: why there is no text.
        labels: (B, L) the host's own labels of the merged sequence.
    """

    text: Text | None
    anchors: Tensor | None
    has_gradient: bool
    problem: LayoutError | None
    labels: Tensor | None


class Alignment:
    """Collect decoder passes and align their samples. Samples of several passes count alike.

    Passes with gradients replace those without: some hosts run the decoder under ``no_grad`` for a side computation
    (CAL). Of passes without gradients, the last one counts.

    Args:
        config: method, weighting and scope.
        embedding: returns the input embedding; while it is frozen, no gradient of the text embeddings is formed.
        why_unknown: returns what may keep the layout unknown, for messages.
    """

    def __init__(self, config: VistaConfig, embedding: Callable[[], nn.Module], why_unknown: Callable[[], str]) -> None:
        self.head = AlignmentHead(config)
        self._embedding, self._why_unknown = embedding, why_unknown
        self._passes: list[DecoderPass] = []
        self._text: Text | None = None

    @property
    def passes(self) -> int:
        """Number of decoder passes that will count."""
        return len(self._passes)

    @property
    def has_gradient(self) -> bool:
        """Whether the passes that will count ran with gradients enabled."""
        return any(one.has_gradient for one in self._passes)

    @property
    def labels(self) -> Tensor | None:
        """(B, L) the labels of the only pass; None after several."""
        return self._passes[0].labels if len(self._passes) == 1 else None

    def decoder_called(self, observation: Observation) -> None:
        self._text = None
        embeds, layout = observation.inputs_embeds, observation.layout
        if embeds is None or layout is None:
            return
        if not any(parameter.requires_grad for parameter in self._embedding().parameters()):
            embeds = embeds.detach()
        self._text = self.head.read_text(embeds, layout)

    def decoder_returned(self, observation: Observation) -> None:
        has_gradient = torch.is_grad_enabled()
        if not has_gradient and any(earlier.has_gradient for earlier in self._passes):
            return
        self._passes = [earlier for earlier in self._passes if earlier.has_gradient]
        hidden, layout, problem, text = (
            observation.last_hidden_state, observation.layout, observation.problem, self._text,
        )  # fmt: skip
        self._text, anchors = None, None
        if problem is None and hidden is not None:
            try:
                if observation.inputs_embeds is None:  # a batch without images
                    anchors, text = self.head.nothing(hidden)
                elif layout is not None and text is not None:
                    anchors = self.head.anchor(hidden, layout, text)
                else:
                    problem = LayoutError(
                        f"the decoder got inputs_embeds {tuple(observation.inputs_embeds.shape)}, but no layout is "
                        f"known for them: {self._why_unknown()}. VISTA cannot separate text from image there."
                    )
            except LayoutError as error:
                problem = error
        self._passes.append(DecoderPass(text, anchors, has_gradient, problem, observation.labels))

    def terms(self) -> AlignmentTerms | None:
        """Return the term over all samples of the collected passes, and release them; None when there was no pass.

        With an estimator that joins ranks, this is a collective for passes with gradients: every rank must call.

        Raises:
            LayoutError: the layout of a pass is unknown.
        """
        passes, self._passes = self._passes, []
        if not passes:
            return None
        texts, anchors = [], []
        for decoder_pass in passes:
            if decoder_pass.problem is not None:
                raise decoder_pass.problem
            if decoder_pass.text is not None and decoder_pass.anchors is not None:
                texts.append(decoder_pass.text)
                anchors.append(decoder_pass.anchors)
        self.head.train(passes[0].has_gradient)
        if len(texts) == 1:
            return self.head.align(anchors[0], texts[0])
        return self.head.align(torch.cat(anchors), Text.joined(texts))

    def clear(self) -> None:
        """Release what was collected."""
        self._passes, self._text = [], None
