"""Models whose decoder, loss or wrapper is not where most have it: exact, or stopped in words."""

from __future__ import annotations

import pytest
import torch
from merging_host import Merging, batch_for, config
from torch import nn
from torch.utils.checkpoint import checkpoint

from llava_vista import AttachError, LayoutError, VistaConfig, attach
from llava_vista.adapters import find_adapter

pytestmark = pytest.mark.environments("latest")


def build(cls: type) -> nn.Module:
    torch.manual_seed(0)
    return cls(config()).train()


class Nested(Merging):
    """The decoder has its table in a module of its own, as ChatGLM has."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.model.embedding = nn.Sequential(self.model.embed_tokens)
        del self.model.embed_tokens

    def get_input_embeddings(self):
        return self.model.embedding[0]


def test_the_decoder_is_the_stack_of_layers_that_holds_the_table() -> None:
    model = build(Nested)
    adapter, inner = find_adapter(model)
    assert adapter.decoder(inner) is model.model
    handle = attach(model)
    model(**batch_for(Nested)).loss.backward()
    assert handle.metrics()["vista_aligned_samples"] == 2
    handle.detach()


class Checkpointed(Merging):
    """Runs the whole decoder in a reentrant checkpoint, without gradients in the forward."""

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        _, _, mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images
        )
        decoder = lambda rows: self.model(inputs_embeds=rows, attention_mask=mask).last_hidden_state  # noqa: E731
        hidden = checkpoint(decoder, embeds, use_reentrant=True)
        logits = self.lm_head(hidden)
        return {"loss": self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)}


class Reported(Merging):
    """Its first loss is a number for the log; it is trained on another."""

    def forward(self, **batch):
        output = super().forward(**batch)
        return {"loss": output.loss.detach(), "total_loss": 2 * output.loss}


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (Checkpointed, AttachError, "ran without gradients in a forward that is trained"),
        (Reported, LayoutError, "the first loss that Reported returned has no gradient"),
    ],
)
def test_a_term_that_would_not_be_trained_stops(cls: type, error: type, message: str, caplog) -> None:
    model = build(cls)
    handle = attach(model)
    with pytest.raises(error, match=message):
        model(**batch_for(cls))
    handle.detach()
    for options in ({"config": VistaConfig(weight=0.0)}, {"add_to_loss": False}):
        handle = attach(model, **options)
        model(**batch_for(cls))
        handle.detach()
    assert caplog.text.count(message) == (error is AttachError)


class Wrapper(nn.Module):
    """Takes more positional arguments than the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args):
        return self.model(**dict(zip(args[::2], args[1::2], strict=True)))


def test_a_wrapper_with_arguments_of_its_own() -> None:
    model = build(Merging)
    handle = attach(Wrapper(model).train())
    handle.model(*[part for pair in batch_for(Merging).items() for part in pair]).loss.backward()
    assert handle.metrics()["vista_aligned_samples"] == 2
    handle.detach()
