"""The seam between the model and its listeners: what one pass of the decoder received and returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from ..adapters import find_adapter
from ..errors import LayoutError
from ..layout import SequenceLayout
from .decoder_tap import DecoderTap
from .first_batch_check import FirstBatchCheck
from .layout_source import LayoutSource


@dataclass
class Observation:
    """One pass of the decoder. Its tensors are the model's own, neither copied nor detached.

    Attributes:
        inputs_embeds: (B, L, d) what the decoder received; None when it was called with ``input_ids``.
        layout: masks (B, L) of text and image, with spans where rows hold several samples. None when it is unknown.
        labels: (B, L) the host's own labels of the merged sequence; None when it has none.
        read_token_ids: returns the original token at each text position (B, L), meaningless elsewhere.
        last_hidden_state: (B, L, d) what the decoder returned, after its final norm; None until it has returned.
        problem: why the layout is unknown or not to be trusted. A listener that needs the layout raises it.
        arguments: what the decoder was called with, by name.
    """

    inputs_embeds: Tensor | None
    layout: SequenceLayout | None = None
    labels: Tensor | None = None
    read_token_ids: Callable[[], Tensor] | None = None
    last_hidden_state: Tensor | None = None
    problem: LayoutError | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def token_ids(self) -> Tensor | None:
        """(B, L) the original token at each text position, meaningless elsewhere; None when it is unknown."""
        return None if self.read_token_ids is None else self.read_token_ids()


class Listener(Protocol):
    """Receives every pass of the decoder, once before and once after the decoder has run."""

    def decoder_called(self, observation: Observation) -> None:
        """Act before the decoder runs. A LayoutError becomes the observation's ``problem``."""

    def decoder_returned(self, observation: Observation) -> None:
        """Act after the decoder: ``observation.last_hidden_state`` is known, or ``problem`` says why it is not."""


class Observer:
    """Delivers the decoder passes of a model to listeners, in their order.

    The first batch of each kind is checked before the listeners see it.

    Args:
        model: the object whose forward the training loop calls; it may wrap the model that an adapter knows (PEFT).
        listeners: see `Listener`.
        is_wanted: passes for which it returns False are neither read nor delivered.
        checks_first_batch: False where the listeners themselves judge the layout (conformance kit).

    Raises:
        UnsupportedModelError: no adapter, or more than one, recognises the model.
        LayoutError: this version of the host offers no way to learn the layout.
    """

    def __init__(
        self,
        model: nn.Module,
        *listeners: Listener,
        is_wanted: Callable[[], bool] | None = None,
        checks_first_batch: bool = True,
    ) -> None:
        self.model = model
        self.adapter, self.inner = find_adapter(model)
        self.decoder = self.adapter.decoder(self.inner)
        self.listeners = listeners
        self._is_wanted = is_wanted or (lambda: True)
        self._check = FirstBatchCheck(self.adapter, self.inner) if checks_first_batch else None
        begins = self._check.begin if self._check is not None else None
        # raises before any hook is registered
        self._source = LayoutSource(self.adapter, self.inner, model, self._is_wanted, begins)
        self._tap = DecoderTap(self.decoder, self._enter, self._leave)

    def _enter(self, arguments: dict[str, Any]) -> Observation | None:
        if not self._is_wanted():
            # In training, a pass without gradients may precede the real one on the same input (CAL): keep the layout.
            if not self.inner.training:
                self._source.clear()
            if self._check is not None:
                self._check.forget()
            return None
        observation = Observation(arguments.get("inputs_embeds"), arguments=arguments)
        try:
            self._source.read(observation, arguments)
            if self._check is not None:
                self._check.check(observation)
            for listener in self.listeners:
                listener.decoder_called(observation)
        except LayoutError as error:
            observation.problem = error
        return observation

    def _leave(self, observation: Observation | None, output: Any) -> None:
        if observation is not None:
            try:
                observation.last_hidden_state = self._tap.hidden_in(output)
            except LayoutError as error:
                observation.problem = observation.problem or error
            for listener in self.listeners:
                listener.decoder_returned(observation)

    @property
    def batch(self) -> Mapping[str, Any]:
        """The batch that the trainer works on, for hosts that embed the ids before they call the model."""
        return self._source.batch

    @batch.setter
    def batch(self, inputs: Mapping[str, Any]) -> None:
        # A copy: trainers take entries out of it.
        self._source.batch = {"input_ids": inputs.get("input_ids")}

    def add_listener(self, listener: Listener) -> Callable[[], None]:
        """Deliver passes to another listener too, behind the others; return what undoes it."""
        self.listeners = (*self.listeners, listener)

        def remove() -> None:
            self.listeners = tuple(one for one in self.listeners if one is not listener)

        return remove

    @property
    def decoder_parameters(self) -> Mapping[str, Any]:
        """What the decoder's forward takes, by name."""
        return self._tap.parameters

    def run_again(self, arguments: Mapping[str, Any]) -> Tensor:
        """Run the decoder and return its last hidden state (B, L, d); no listener receives this pass."""
        wanted, self._is_wanted = self._is_wanted, lambda: False
        try:
            return self._tap.hidden_in(self.decoder(**arguments))
        finally:
            self._is_wanted = wanted

    def clear(self) -> None:
        """Release what is kept of the last forward."""
        self._source.clear()
        self._source.batch = {}
        if self._check is not None:
            self._check.forget()

    def remove(self) -> None:
        """Remove every hook. The model is what it was before."""
        self._tap.remove()
        self._source.remove()
        if self._check is not None:
            self._check.remove()

    def describe_layout(self) -> str:
        """Return where the layout comes from, for messages."""
        return self._source.describe()

    def explain_unknown_layout(self) -> str:
        """Return what may keep the layout unknown, for messages."""
        return self._source.why_unknown()

    def describe(self) -> str:
        """Return what was recognised and where the hooks are, for the line at the start of a run."""
        names = {id(module): name for name, module in self.model.named_modules()}
        where = names.get(id(self.decoder), "") or "(the model itself)"
        return (
            f"{type(self.inner).__name__} (adapter {self.adapter.name}): layout from {self.describe_layout()}, "
            f"decoder {where} ({type(self.decoder).__name__})"
        )


class Recorder:
    """A listener that keeps the last observation, for tools and tests. It holds (B, L, d) tensors until `forget`."""

    def __init__(self) -> None:
        self.last: Observation | None = None

    def decoder_called(self, observation: Observation) -> None:
        self.last = observation

    def decoder_returned(self, observation: Observation) -> None:
        self.last = observation

    def forget(self) -> None:
        """Release the observation."""
        self.last = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        return Recorder()
