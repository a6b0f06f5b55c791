"""Call a host's merge method with position codes in the labels' place, and read the layout from what comes back."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..adapters import Adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .host_copy import HostCopy
from .merge_proof import Replay, Slots, differences, different_changes, find_slots, same
from .placeholders import among
from .position_codes import Tokens, check_mask, check_order, compose, decode, position_codes, unknown_kinds


class Merged(NamedTuple):
    """What the host gets back, and the layout (None when there was nothing to merge or no labels to code).

    Attributes:
        read_token_ids: returns the original token at each text position (B, L), anything elsewhere.
        labels: (B, L) as the host gets them back. A second merge of one forward (images, then videos) receives these.
        embeds: (B, L, d) the merged embeddings.
        problem: why there is no layout, although images were merged.
        has_positions: the host passed position ids or a mask of sample numbers, which may tell samples in a row apart.
    """

    result: Any
    layout: SequenceLayout | None = None
    read_token_ids: Callable[[], Tensor] | None = None
    labels: Tensor | None = None
    embeds: Tensor | None = None
    problem: LayoutError | None = None
    has_positions: bool = False


class Coded(NamedTuple):
    """A call of the merge method with position codes in the labels' place.

    call: the arguments. made_mask: the mask among them is ours. codes, labels (B, T): what goes in, and the host's own.
    """

    call: inspect.BoundArguments
    made_mask: bool
    codes: Tensor
    labels: Tensor
    tokens: Tokens

    @classmethod
    def of(cls, bound: inspect.BoundArguments, image_ids: tuple[int, ...], other_ids: tuple[int, ...]) -> Coded:
        """Code a call.

        Raises:
            LayoutError: the labels or the mask are not (B, T).
        """
        labels, mask = bound.arguments["labels"], bound.arguments.get("attention_mask")
        for name in ("input_ids", "labels", "attention_mask"):
            value = bound.arguments.get(name)
            if value is not None and not isinstance(value, Tensor):
                raise LayoutError(f"{name} is a {type(value).__name__}; a (B, T) tensor was expected.")
        ids = bound.arguments["input_ids"].clone()  # some hosts write into them (Bunny)
        codes = position_codes(labels)
        call = inspect.BoundArguments(bound.signature, OrderedDict(bound.arguments))
        call.arguments["labels"] = codes
        if mask is None:
            # Without a mask, padding on the right would come back as image. Ones change nothing else.
            mask = call.arguments["attention_mask"] = torch.ones_like(labels, dtype=torch.bool)
        if mask.shape != ids.shape:
            raise LayoutError(f"attention_mask is {tuple(mask.shape)} where input_ids are {tuple(ids.shape)}.")
        tokens = Tokens.read(ids, mask, image_ids, other_ids)
        return cls(call, bound.arguments.get("attention_mask") is None, codes, labels, tokens)

    def numbered(self) -> Tensor:
        """Return whether the mask numbers the samples of a row: 1 1 2 2; () bool."""
        mask: Tensor = self.call.arguments["attention_mask"]
        return (mask > 1).any()


class Proof(NamedTuple):
    """What a proved merge has shown: where the values are, their number, and whether the mask is None without ours."""

    slots: Slots
    length: int
    no_mask: bool


class Merger:
    """Runs the merge method of one model; what it returns is as if it had been called plainly.

    The first merge is run again, with and without codes, and every value must be the same. That also shows where the
    embeddings, labels and mask are among the returned values, and whether the host makes a mask when it gets none.
    After a problem the method is called plainly: VISTA has no layout then, and the host what it has without VISTA.

    Args:
        adapter: knows the method, and the placeholders.
        model: that it recognised.
    """

    def __init__(self, adapter: Adapter, model: nn.Module) -> None:
        self.adapter, self.model = adapter, model
        self._image_ids, self._other_ids = adapter.image_ids(model), adapter.other_ids(model)
        self._known = (*self._image_ids, *self._other_ids)
        #: on the way to the host: are there unknown placeholders, neighbours of different kinds, sample numbers
        self._flags = HostCopy()
        self._proof: Proof
        #: for calls without a mask and for those with one, once proved: whether the mask comes back as None
        self._returns_no_mask: dict[bool, bool] = {}
        self._problem: LayoutError | None = None
        #: () bool on the device: placeholders of images were seen
        self._placed: Tensor | None = None

    def __call__(
        self, method: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any], before: Merged | None = None
    ) -> Merged:
        """Merge.

        Args:
            method: the host's own method, bound to its model.
            args, kwargs: what the host passed.
            before: the merge before this one, whose outcome the host may be passing on.
        """
        signature = inspect.signature(method)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError:
            # A call that does not fit the signature is the host's own defect: let its own error come through.
            return Merged(method(*args, **kwargs))
        given = bound.arguments
        if given.get("labels") is None or given.get("input_ids") is None:
            return Merged(method(*args, **kwargs))  # generation: the host's own path, untouched
        if self._problem is not None:
            return Merged(method(*args, **kwargs), problem=self._problem)
        try:
            coded = Coded.of(bound, self._image_ids, self._other_ids)
            flags = [self._unknown(coded.tokens.ids).any(), coded.tokens.mixed(), coded.numbered()]
            self._flags.start(torch.stack(flags).to(torch.uint8))
            if (given.get("attention_mask") is None) in self._returns_no_mask:
                return self._merged(method(*coded.call.args, **coded.call.kwargs), coded, before)
        except LayoutError as error:
            return Merged(method(*args, **kwargs), problem=error)
        replay = Replay(self.model, method, bound)
        try:
            result = method(*coded.call.args, **coded.call.kwargs)
            self._prove(replay, coded)
            return self._merged(result, coded, before, check=True)
        except LayoutError as error:
            name = f"{type(self.model).__name__}.{self.adapter.merge_method}"
            self._problem = LayoutError(f"adapter {self.adapter.name}, {name}{signature}: {error}")
            replay.take_back()
            return Merged(method(*args, **kwargs), problem=self._problem)

    def _prove(self, replay: Replay, coded: Coded) -> None:
        """Compare a merge with position codes to one without, and learn where the values are. Reads the device.

        Raises:
            LayoutError: the method returned something that is not understood, or not what it returned plainly.
        """
        plain = replay.run(replay.bound)
        kept, written = replay.changes, replay.written
        result = replay.run(coded.call)
        if not all(isinstance(values, (tuple, list)) for values in (plain, result)) or len(plain) != len(result):
            raise LayoutError(f"it returned {type(plain).__name__}; tuples of one length are understood.")
        names = self.adapter.merge_returns.get(len(result), ())
        weight = getattr(self.model.get_input_embeddings(), "weight", None)  # type: ignore[operator]
        width = 0 if weight is None else weight.shape[-1]
        slots = find_slots(plain, result, coded.codes, names, width)
        no_mask = coded.made_mask and slots.mask is not None and plain[slots.mask] is None
        self._proof = Proof(slots, len(result), no_mask)
        wrong = differences(plain, self._merged(result, coded, None).result, names, slots)
        wrong += [f"attribute {name}" for name in different_changes(kept, replay.changes)]
        if "labels" in written:
            raise LayoutError(
                "it writes into the labels that it is given, which VISTA could not pass on to whoever reads them "
                "later. Train this model without VISTA, or name another method in an adapter of your own "
                "(merge_method)."
            )
        if wrong:
            raise LayoutError(
                f"it returned another {' and '.join(wrong)} with position codes in the labels' place than with the "
                "labels. It reads the values of labels, from which VISTA learns the layout, or is random in a way that "
                "cannot be repeated. Train this model without VISTA, or name another method in an adapter of your own "
                "(merge_method)."
            )
        # A batch that came back without a single text token does not show where the labels are.
        if slots.embeds is not None and not same(plain[slots.labels], result[slots.labels]):
            self._returns_no_mask[coded.made_mask] = no_mask

    def _merged(self, result: Any, coded: Coded, before: Merged | None, *, check: bool = False) -> Merged:
        """Return what the host gets, and the layout. ``check`` reads the device.

        Raises:
            LayoutError: the returned values do not fit each other.
        """
        slots, length, _ = self._proof
        if not isinstance(result, (tuple, list)) or len(result) != length:
            found = f"{len(result)} values" if isinstance(result, (tuple, list)) else type(result).__name__
            raise LayoutError(f"it returned {found}, and {length} values before.")
        values = list(result)
        embeds = None if slots.embeds is None else values[slots.embeds]
        merged = Merged(None)
        if embeds is None:
            # No image in the batch (or a single token): nothing was merged, the labels come back as they were.
            values[slots.labels] = coded.labels
        else:
            merged = self._read(values, slots, coded, before, check=check)
            values[slots.labels] = merged.labels
        if coded.made_mask:
            no_mask = self._returns_no_mask.get(True, self._proof.no_mask)
            ours = coded.call.arguments["attention_mask"]
            values = [None if v is ours or (no_mask and at == slots.mask) else v for at, v in enumerate(values)]
        result = type(result)._make(values) if hasattr(result, "_make") else type(result)(values)
        positions = coded.call.arguments.get("position_ids") is not None
        # The flags are read where images were merged only: reading waits for what was queued before.
        marked = positions or (embeds is not None and bool(self._flags.read()[2]))
        return merged._replace(result=result, embeds=embeds, has_positions=marked)

    def _read(self, values: list[Any], slots: Slots, coded: Coded, before: Merged | None, *, check: bool) -> Merged:
        """Read the layout from what came back; ``check`` reads the device.

        Raises:
            LayoutError: the returned values do not fit each other.
        """
        codes, embeds, tokens = values[slots.labels], values[slots.embeds or 0], coded.tokens
        if slots.mask is None or codes.shape != embeds.shape[:2]:
            raise LayoutError(
                f"it returned inputs_embeds {tuple(embeds.shape)}, labels {tuple(codes.shape)} and "
                f"{'no' if slots.mask is None else 'an'} attention mask; (B, L, d) and twice (B, L) were expected."
            )
        if check:
            check_order(codes)
        seen = (tokens.image & tokens.attended).any()
        self._placed = seen if self._placed is None else self._placed | seen
        layout, merged_labels, token = decode(codes, values[slots.mask], coded.labels, tokens, self._placed)
        if check:
            check_mask(codes, values[slots.mask], layout, tokens)
        if before is not None and before.layout is not None and before.labels is coded.labels:
            layout = compose(layout, token, before.layout)
        problem = self._placeholder_problem(coded, codes, values[slots.mask], check=check)
        read_ids = lambda: tokens.ids[token]  # noqa: E731
        return Merged(None, None if problem else layout, read_ids, merged_labels, problem=problem)

    def _unknown(self, ids: Tensor) -> Tensor:
        return (ids < 0) & ~among(ids, self._known)

    def _placeholder_problem(self, coded: Coded, codes: Tensor, mask: Tensor, *, check: bool) -> LayoutError | None:
        """Return why it is unclear which rows are image rows, if it is. Reads the device in that case, and to check."""
        tokens, (unknown, mixed, _) = coded.tokens, self._flags.read()
        found: list[int] = []
        if unknown:
            found = sorted(set(tokens.ids[self._unknown(tokens.ids)].tolist()))
        elif check:
            found = sorted(unknown_kinds(codes, mask, tokens))
            # One kind that no sheet names is the image, where no known placeholder is in the batch.
            if len(found) == 1 and not bool((tokens.placeholder & tokens.attended).any()):
                found = []
        name = f"adapter {self.adapter.name}"
        if found:
            return LayoutError(
                f"{name}: the host put rows in the place of tokens {', '.join(map(str, found))}, and it is unknown "
                f"whether these are images (known: {', '.join(map(str, self._image_ids)) or 'none'}). An adapter of "
                "your own (register_adapter) names them: image_ids, other_ids."
            )
        if mixed:
            return LayoutError(
                f"{name}: placeholders of an image and of another modality are neighbours in input_ids, so VISTA "
                "cannot separate their rows. Put a token between them."
            )
        return None
