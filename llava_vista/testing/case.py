"""One model and batch under test, and what is seen while it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..attach.observation import Observer, Recorder
from ..layout import SequenceLayout


class Skipped(Exception):
    """A check that does not apply to this model or environment; the message says why."""


class Seen(NamedTuple):
    """What one forward showed.

    embeds, hidden: (B, L, d) into and out of the decoder. layout: masks (B, L). token_ids: (B, L) the original token
    at text positions. input_ids, mask: (B, T) of the batch. output: the model's. rows: the embedding table's rows for
    ``token_ids`` at text positions (N, d), as the embedding module gives them out; input_rows: those for all of
    ``input_ids`` that are in the table (M, d), placeholder tokens too.
    """

    embeds: Tensor
    hidden: Tensor
    layout: SequenceLayout
    token_ids: Tensor
    input_ids: Tensor
    mask: Tensor
    output: Any
    rows: Tensor
    input_rows: Tensor


class Case:
    """Builds models and batches, the same every time, and runs them the same way every time."""

    def __init__(self, build_model: Callable[[], nn.Module], build_batch: Callable[[], dict[str, Any]]) -> None:
        self._build_model, self._build_batch = build_model, build_batch

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self._build_model().train()

    def batch(self) -> dict[str, Any]:
        torch.manual_seed(1)
        return self._build_batch()

    def run(self, model: nn.Module) -> Any:
        """The model's output for the batch; dropout, if any, falls the same way every time."""
        batch = self.batch()
        torch.manual_seed(2)
        return model(**batch)

    def loss(self, model: nn.Module) -> Tensor:
        output = self.run(model)
        loss = output.get("loss") if hasattr(output, "get") else output[0]
        if not isinstance(loss, Tensor):
            raise AssertionError("the model returns no loss for this batch; it needs labels")
        return loss

    def gradients(self, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and gradients of one step, by the parameter's name."""
        loss = self.loss(model)
        loss.backward()
        return loss.detach(), {
            name: parameter.grad.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }

    def see(self) -> Seen:
        """Run the model once and return what its decoder received and returned.

        Raises:
            AssertionError: no layout was found, or the decoder did not run.
            LayoutError: the layout is wrong.
        """
        model, batch = self.model(), self.batch()
        input_ids = batch["input_ids"].clone()
        mask = batch.get("attention_mask")
        mask = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.clone().bool()
        recorder = Recorder()
        observer = Observer(model, recorder, checks_first_batch=False)
        try:
            torch.manual_seed(2)
            output = model(**batch)
            seen = recorder.last
        finally:
            observer.remove()
        if seen is None or seen.inputs_embeds is None or seen.last_hidden_state is None:
            raise AssertionError(
                f"the decoder {type(observer.decoder).__name__} did not run with inputs_embeds; does "
                "Adapter.decoder name the right module?"
            )
        if seen.problem is not None:
            raise seen.problem
        layout, token_ids = seen.layout, seen.token_ids
        if layout is None or token_ids is None:
            raise AssertionError(f"{observer.describe_layout()} gave no layout: {observer.explain_unknown_layout()}")
        inner = observer.inner
        with torch.no_grad():
            table = inner.get_input_embeddings()  # type: ignore[operator]
            rows = table(token_ids[layout.text])
            known = input_ids[(input_ids >= 0) & (input_ids < table.weight.shape[0])]
            input_rows = table(known)
        return Seen(
            seen.inputs_embeds, seen.last_hidden_state, layout, token_ids, input_ids, mask, output, rows, input_rows
        )
