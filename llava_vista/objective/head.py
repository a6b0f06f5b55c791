"""The alignment head: from embeddings, hidden states and layout to the VISTA loss. It has no parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..config import ESTIMATORS, WEIGHTINGS, VistaConfig
from ..errors import ConfigError, LayoutError
from ..layout import SequenceLayout, Span
from .estimators import TextBag
from .gather import RankJoin
from .own_text import OwnText, compare_texts, rotated_scores
from .text_sums import per_sample, weighted_bag, wide


class AlignmentTerms(NamedTuple):
    """What one batch gives. All float32 scalars on the batch's device.

    loss: L_VISTA, the mean over aligned samples; connected to the graph, 0 when no sample is aligned.
    similarity: unweighted mean over text tokens of I(x_t, S_n), averaged over aligned samples; detached.
    aligned: number of samples with both an image and text in scope.
    finite: 1 where the loss was finite, else 0 (also when it was skipped).
    own: the samples' texts against each other, in this rank's forward.
    """

    loss: Tensor
    similarity: Tensor
    aligned: Tensor
    finite: Tensor
    own: OwnText

    def detach(self) -> AlignmentTerms:
        """Return the numbers without their graph."""
        return self._replace(loss=self.loss.detach())


def last_image_state(hidden: Tensor, image: Tensor, spans: tuple[Span, ...] | None = None) -> Tensor:
    """S_n: the hidden state at each sample's last image position.

    Args:
        hidden: (B, L, d).
        image: (B, L) bool.
        spans: the N samples, where rows hold several.

    Returns:
        (B, d) or (N, d); some position's for a sample without an image, which the caller masks out.
    """
    batch, length = image.shape
    position = torch.where(image, torch.arange(length, device=image.device), 0)
    last = per_sample(torch.amax, position, spans)  # (N,), in the row
    if spans is None:
        return hidden[torch.arange(batch, device=hidden.device), last]
    # Numbers of the host are added one by one: a list sent to the device would wait for it.
    at = torch.stack([last[number] + span.row * length for number, span in enumerate(spans)])
    return hidden.flatten(0, 1).index_select(0, at)


def number_text(text: Tensor, spans: tuple[Span, ...] | None) -> tuple[Tensor, Tensor]:
    """t at each text token, and m of its sample: (B, L) and (B, 1), or (B, L) where rows hold several samples."""
    t = text.cumsum(dim=1)
    if spans is None:
        return t, t[:, -1:]
    before, m = torch.zeros_like(t), torch.zeros_like(t)
    for row, start, stop in spans:
        before[row, start:stop] = t[row, start] - text[row, start].long()
        m[row, start:stop] = t[row, stop - 1]
    return t - before, m - before


def of_each_position(values: Tensor, layout: SequenceLayout) -> Tensor:
    """Spread one flag per sample (N,) over its positions: (B, 1), or (B, L) where rows hold several samples."""
    if layout.spans is None:
        return values[:, None]
    spread = torch.zeros(layout.shape, dtype=values.dtype, device=values.device)
    for number, (row, start, stop) in enumerate(layout.spans):
        spread[row, start:stop] = values[number]
    return spread


class Text(NamedTuple):
    """What the alignment needs of the embeddings: nothing of size (B, L, d).

    vector (2, B, d), square (2, B), weight (2, B): the text bag, weighted as the loss and as the plain mean; dtypes as
        in `TextBag`. Only the first of each has a gradient.
    valid: (B,) bool, samples with both an image and text in scope.
    packed: they shared rows.
    """

    vector: Tensor
    square: Tensor
    weight: Tensor
    valid: Tensor
    packed: bool = False

    @classmethod
    def joined(cls, texts: Sequence[Text]) -> Text:
        """Return the samples of several passes as one batch."""
        columns = ([text.vector, text.square, text.weight] for text in texts)
        vector, square, weight = (torch.cat(column, dim=1) for column in zip(*columns, strict=True))
        packed = any(text.packed for text in texts)
        return cls(vector, square, weight, torch.cat([text.valid for text in texts]), packed)


class AlignmentHead(nn.Module):
    """Computes L_VISTA of a batch in float32, whatever the input dtype and under any autocast.

    It can be taken in three steps, each as soon as its input exists: `read_text` when the decoder is entered, `anchor`
    when it is left, `align` when the loss is wanted. Taken so, their backward runs just before that of what they read
    (autograd runs the latest operation first), and nothing of size (B, L, d) waits through the backward of the decoder.

    Args:
        config: method, position weighting, text scope and what to do with a loss that is not finite.
    """

    def __init__(self, config: VistaConfig) -> None:
        super().__init__()
        self.config = config
        self.estimator = ESTIMATORS[config.method]
        self.weighting = WEIGHTINGS[config.position_weighting]
        self._options = {name: getattr(config, name) for name in self.estimator.options}
        self._join = RankJoin()

    def extra_repr(self) -> str:
        return f"method={self.config.method}, position_weighting={self.config.position_weighting}"

    def _text(self, layout: SequenceLayout) -> Tensor:
        if self.config.text_scope == "all":
            return layout.text
        if layout.answer is None:
            raise LayoutError(
                "text_scope='answer' needs to know the supervised tokens, but this layout carries none: the batch has "
                "no labels, or SequenceLayout was made without answer=."
            )
        return layout.text & layout.answer

    def read_text(self, inputs_embeds: Tensor, layout: SequenceLayout) -> Text:
        """Sum up the text of each sample, in one pass over the embeddings.

        Args:
            inputs_embeds: (B, L, d) what the decoder received.
            layout: masks (B, L), of N samples: B, or as many as it has spans.

        Raises:
            LayoutError: the shapes do not fit each other, or the text scope is unknown to the layout.
        """
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[:2] != layout.shape:
            raise LayoutError(
                f"inputs_embeds {tuple(inputs_embeds.shape)} and layout {tuple(layout.shape)} do not describe one "
                "(B, L, d) sequence."
            )
        if self.config.detach_text:
            inputs_embeds = inputs_embeds.detach()
        with torch.autocast(device_type=inputs_embeds.device.type, enabled=False):
            text = self._text(layout)
            has_image, has_text = (per_sample(torch.any, mask, layout.spans) for mask in (layout.image, text))
            valid = has_image & has_text  # (N,)
            t, m = (numbers.float() for numbers in number_text(text, layout.spans))
            m = m.clamp(min=1)
            counted = text & of_each_position(valid, layout)
            # A weighting sees t >= 1 everywhere: one that is not finite at 0 (1/t, log t) must not reach other rows.
            omega = self._weigh(t.clamp(min=1), m)
            weights = torch.stack([omega / m, (1 / m).expand_as(t)]).masked_fill(~counted, 0.0)  # (2, B, L)
            vector, square = weighted_bag(inputs_embeds, weights, unit=self.estimator.unit_text, spans=layout.spans)
            return Text(
                vector, square, per_sample(torch.sum, wide(weights), layout.spans), valid, layout.spans is not None
            )

    def anchor(self, last_hidden_state: Tensor, layout: SequenceLayout, text: Text) -> Tensor:
        """S_n of each sample, float32 (N, d); zero, with no gradient, for samples that are not aligned.

        Args:
            last_hidden_state: (B, L, d) what the decoder returned, after its final norm.
            layout: masks (B, L).
            text: of the same batch.

        Raises:
            LayoutError: the shapes do not fit each other.
        """
        width = text.vector.shape[-1]
        if last_hidden_state.ndim != 3 or last_hidden_state.shape != (*layout.shape, width):
            raise LayoutError(
                f"last_hidden_state {tuple(last_hidden_state.shape)} does not fit the layout {tuple(layout.shape)} and "
                f"embeddings of width {width}."
            )
        # Under a device_map the decoder's last layer may be on another device than its embeddings.
        image, valid = (mask.to(last_hidden_state.device) for mask in (layout.image, text.valid))
        anchors = last_image_state(last_hidden_state, image, layout.spans).float()
        # An unaligned sample's row is whatever stands at position 0 (padding, perhaps NaN): cut its gradient too.
        return torch.where(valid[:, None], anchors, torch.zeros_like(anchors)).to(text.vector.device)

    def nothing(self, hidden: Tensor) -> tuple[Tensor, Text]:
        """Anchors and text of a batch without images: zeros, connected to the graph by hidden (B, L, d)."""
        batch, _, width = hidden.shape
        zeros = torch.zeros((2, batch, width), device=hidden.device)
        none = wide(torch.zeros((2, batch), device=hidden.device))
        anchors = zeros[0] + hidden[..., :0].float().sum()
        return anchors, Text(zeros, none, none, torch.zeros(batch, dtype=torch.bool, device=hidden.device))

    def align(self, anchors: Tensor, text: Text) -> AlignmentTerms:
        """L_VISTA and its companions from anchors (B, d) and text.

        In training with an estimator that joins ranks, this is a collective: every rank must call. With
        ``on_nonfinite`` "skip" it reads one flag from the device, and a loss that is not finite becomes a constant 0.
        """
        with torch.autocast(device_type=anchors.device.type, enabled=False):
            aligned, joined = text.valid.sum().float(), text
            own = self.compare(anchors, text).averages()
            ranks = RankJoin.ranks() if self.estimator.joins_ranks and self.training else 1
            if ranks > 1:
                anchors, joined = self._joined(anchors, text)
            counted = joined.valid.sum().clamp(min=1)
            loss = (-self._information(anchors, _bag(joined, 0)).sum() / counted).float()
            if ranks > 1:  # each holds the value of all samples and the gradient of its own; these will be averaged
                loss = loss.detach() + ranks * (loss - loss.detach())
            with torch.no_grad():
                similarity = (self._information(anchors, _bag(joined, 1)).sum() / counted).float()
            finite = torch.isfinite(loss.detach()).float()
            # Only a host decision keeps a gradient of 0 out of a forward that was not finite itself: 0 * inf is NaN.
            if self.config.on_nonfinite == "skip" and self.config.weight > 0 and not bool(finite):
                loss, similarity = torch.zeros_like(loss), torch.zeros_like(similarity)
        return AlignmentTerms(loss, similarity, aligned, finite, own)

    def _weigh(self, t: Tensor, m: Tensor) -> Tensor:
        """omega(t, m) as (B, L) float32.

        Raises:
            ConfigError: the weighting returned something that is not (B, L).
        """
        omega = self.weighting(t, m.clone())  # its arguments are its own: it may write into them
        try:
            weights = torch.as_tensor(omega, dtype=torch.float32, device=t.device)
            if weights.ndim not in (0, 2):
                raise ValueError("neither a number nor (B, L)")
            return weights.expand_as(t)
        except (RuntimeError, TypeError, ValueError) as error:
            found = tuple(omega.shape) if isinstance(omega, Tensor) else f"{type(omega).__name__} {omega!r}"
            raise ConfigError(
                f"position weighting {self.config.position_weighting!r} returned {found}; (B, L) = {tuple(t.shape)} "
                "was expected."
            ) from error

    def _information(self, anchors: Tensor, bag: TextBag) -> Tensor:
        """I of each sample (B,), 0 for samples that are not aligned.

        Raises:
            ConfigError: the estimator returned something that is not (B,), or has no gradient.
        """
        information = self.estimator.information(anchors.clone(), bag, **self._options)  # it may write into its own
        if not isinstance(information, Tensor) or information.shape != bag.valid.shape:
            found = tuple(information.shape) if isinstance(information, Tensor) else type(information).__name__
            raise ConfigError(
                f"estimator {self.config.method!r} returned {found}; one value per sample, (B,) = "
                f"{tuple(bag.valid.shape)}, was expected."
            )
        trains = torch.is_grad_enabled() and anchors.requires_grad
        if trains and not information.requires_grad and bool(bag.valid.any()):
            raise ConfigError(
                f"estimator {self.config.method!r} returned a value without a gradient ({information.dtype}), though "
                "the image states have one: nothing would be trained. Is it computed under no_grad, detached or "
                "rounded?"
            )
        return torch.where(bag.valid, information, torch.zeros_like(information))

    @torch.no_grad()
    def compare(self, anchors: Tensor, text: Text) -> OwnText:
        """Compare each sample's text with the others' of this rank's anchors (B, d), texts as plain means."""
        bag = _bag(text, 1)
        if self.estimator.scores is None:
            return compare_texts(rotated_scores(self._information, anchors, bag), bag)
        scores = self.estimator.scores(anchors.clone(), _bag(text, 1), **self._options)
        square = (len(anchors), len(anchors))
        if not isinstance(scores, Tensor) or scores.shape != square:
            found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigError(
                f"the scores of estimator {self.config.method!r} are {found}; (B, B) = {square} was expected."
            )
        return compare_texts(scores, bag)

    def _joined(self, anchors: Tensor, text: Text) -> tuple[Tensor, Text]:
        """Anchors and text of all ranks, in one collective."""
        columns = [anchors, *text.vector, *text.square[..., None], *text.weight[..., None], text.valid[:, None]]
        rows = torch.cat([column.float() for column in columns], dim=1)
        rows, _ = self._join(rows, packed=text.packed)  # (B, 3 d + 5) of all ranks
        width = anchors.shape[1]
        anchors, first, second, rest = rows.split([width, width, width, 5], dim=1)
        square, weight = rest[:, 0:2].T, rest[:, 2:4].T
        return anchors, Text(torch.stack([first, second]), square, weight, rest[:, 4] > 0)

    def forward(self, inputs_embeds: Tensor, last_hidden_state: Tensor, layout: SequenceLayout) -> AlignmentTerms:
        """All three steps at once; see them for arguments and errors."""
        text = self.read_text(inputs_embeds, layout)
        return self.align(self.anchor(last_hidden_state, layout, text), text)


def vista_loss(
    inputs_embeds: Tensor, last_hidden_state: Tensor, layout: SequenceLayout, config: VistaConfig | None = None
) -> Tensor:
    """L_VISTA of one batch (arXiv 2505.10917, equation of `llava_vista.objective`); ``config.weight`` is not applied.

    Args:
        inputs_embeds: (B, L, d) input embeddings of the merged sequence.
        last_hidden_state: (B, L, d) the decoder's output after its final norm.
        layout: which positions are text and image.
        config: method, weighting and scope; the published defaults when None.

    Returns:
        float32 scalar, connected to the graph; 0 when no sample has both an image and text in scope.

    Raises:
        LayoutError: the shapes do not fit each other.
    """
    terms: AlignmentTerms = AlignmentHead(config or VistaConfig())(inputs_embeds, last_hidden_state, layout)
    return terms.loss


def _bag(text: Text, which: int) -> TextBag:
    """Return one of the two bags of the text, for an estimator to use and write into.

    Samples that are not aligned are cut off: an estimator's derivative need not be finite there (vector / weight).
    """
    valid = text.valid
    vector, square = text.vector[which], text.square[which]
    vector = torch.where(valid[:, None], vector, torch.zeros_like(vector))
    return TextBag(vector, torch.where(valid, square, torch.zeros_like(square)), text.weight[which].clone(), valid)
