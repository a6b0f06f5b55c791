"""The generic adapter and its check of the first batch, the conformance kit's own failures, and wrong matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from llava_vista import Adapter, LayoutError, UnsupportedModelError, attach, register_adapter
from llava_vista.adapters import ADAPTERS, find_adapter
from llava_vista.testing import ConformanceError, check_adapter

PLACEHOLDER, IMAGE_TOKEN, IGNORE, PATCHES, VOCABULARY = -200, 40, -100, 4, 48


def config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        use_cache=False,
    )  # fmt: skip


class Merging(LlamaForCausalLM):
    """A fork of nobody's that merges in a method with LLaVA's name and arguments; right padding."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.projector = nn.Linear(3, config.hidden_size)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.get_input_embeddings()(ids)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.projector(images)

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        if images is None:
            return input_ids, position_ids, attention_mask, past_key_values, None, labels
        features, rows = iter(self.features(images)), []
        for ids, keep, wanted in zip(input_ids, attention_mask.bool(), labels, strict=True):
            embeds, row_labels = [], []
            for token, label in zip(ids[keep], wanted[keep], strict=True):
                image = token == PLACEHOLDER
                embeds.append(next(features) if image else self.embed(token[None]))
                row_labels.append(torch.full((PATCHES,), IGNORE) if image else label[None])
            rows.append((torch.cat(embeds), torch.cat(row_labels)))
        embeds = nn.utils.rnn.pad_sequence([row[0] for row in rows], batch_first=True)
        labels = nn.utils.rnn.pad_sequence([row[1] for row in rows], batch_first=True, padding_value=IGNORE)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(row[0])) for row in rows], batch_first=True).bool()
        return None, position_ids, mask, past_key_values, embeds, labels

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        ids, _, attention_mask, _, embeds, labels = self.prepare_inputs_labels_for_multimodal(
            input_ids, None, attention_mask, None, labels, images
        )
        return super().forward(
            input_ids=ids, attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs
        )


class Scattering(LlamaForCausalLM):
    """A newcomer to transformers: an image token id in the configuration, embeddings into the decoder."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.config.image_token_id = IMAGE_TOKEN
        self.projector = nn.Linear(3, config.hidden_size)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        return self.get_input_embeddings()(ids)

    def forward(self, input_ids=None, attention_mask=None, labels=None, images=None, **kwargs):
        embeds = self.embed(input_ids)
        if images is not None:
            where = (input_ids == IMAGE_TOKEN)[..., None].expand_as(embeds)
            embeds = embeds.masked_scatter(where, self.projector(images))
        return super().forward(attention_mask=attention_mask, inputs_embeds=embeds, labels=labels, **kwargs)


def batch_for(cls: type) -> dict[str, torch.Tensor]:
    """Rows with one image, none, and two."""
    generator = torch.Generator().manual_seed(3)
    block = [PLACEHOLDER] if issubclass(cls, Merging) else [IMAGE_TOKEN] * PATCHES
    ids, labels = [], []
    for row, count in enumerate((1, 0, 2)):
        text = torch.randint(3, IMAGE_TOKEN, (8 - row,), generator=generator)
        ids.append(torch.cat([text[:1], *[torch.tensor(block)] * count, text[1:]]))
        labels.append(ids[-1].where(torch.arange(len(ids[-1])) > len(block) * count + 2, torch.tensor(IGNORE)))
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(ids, batch_first=True),
        "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORE),
        "images": torch.randn(3, PATCHES, 3, generator=generator),
    }


def builder(cls: type) -> Callable[[], nn.Module]:
    return lambda: cls(config())


@pytest.mark.parametrize("cls", [Merging, Scattering])
def test_unknown_models_that_do_as_known_ones(cls: type) -> None:
    model = cls(config())
    assert find_adapter(model).adapter.name == "generic"
    check_adapter(builder(cls), lambda: batch_for(cls))
    handle = attach(model.train())
    model(**batch_for(cls)).loss.backward()
    assert handle._watch._check is None  # the first batch was checked, and found right
    assert not model.get_input_embeddings()._forward_hooks
    handle.detach()


class WithPositions(Scattering):
    """Adds position embeddings before the decoder: what arrives is not the table's rows."""

    def embed(self, ids):
        return super().embed(ids) + torch.linspace(0, 1, ids.shape[1])[:, None]


class MergingWithPositions(Merging):
    def embed(self, ids):
        return super().embed(ids) + ids[:, None] / 10


class NoFeatures(Scattering):
    """Forgets to put the image features in."""

    def forward(self, images=None, **kwargs):
        return super().forward(**kwargs)


class Scaled(Scattering):
    """Scales its embeddings, as Gemma does."""

    def embed(self, ids):
        return 6.5 * super().embed(ids)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (WithPositions, "are not the rows of its embedding table"),
        (MergingWithPositions, "are not the rows of its embedding table"),
        (NoFeatures, "100% of the image positions of the first batch hold rows of the embedding table"),
    ],
)
def test_a_wrong_first_batch_stops(cls: type, message: str) -> None:
    torch.manual_seed(0)
    model = cls(config()).train()
    handle = attach(model)
    with pytest.raises(LayoutError, match=message):
        model(**batch_for(cls))
    handle.detach()
    assert not model.get_input_embeddings()._forward_hooks


def test_scaled_embeddings_and_noise_pass() -> None:
    torch.manual_seed(0)
    model = Scaled(config()).train()
    handle = attach(model)
    model(**batch_for(Scaled))
    handle.detach()
    model = Scattering(config()).train()
    model.get_input_embeddings().register_forward_hook(  # as NEFTune
        lambda module, args, output: output + 0.05 * torch.rand_like(output)
    )
    handle = attach(model)
    model(**batch_for(Scattering))
    assert handle._watch._check is None
    handle.detach()


# --- wrong matches ---


class MerelyNamed(LlamaForCausalLM):
    """Has a method of the name, with other arguments."""

    def prepare_inputs_labels_for_multimodal(self, prompt, pictures):
        raise NotImplementedError


class NotAModel(nn.Module):
    def prepare_inputs_labels_for_multimodal(self, input_ids, attention_mask, labels):
        raise NotImplementedError


class Forwarding(nn.Module):
    """As PEFT's wrappers: attributes of the model inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model, name)


@pytest.mark.parametrize("make", [lambda: MerelyNamed(config()), NotAModel, lambda: LlamaForCausalLM(config())])
def test_no_match(make) -> None:
    with pytest.raises(UnsupportedModelError, match="no adapter recognises"):
        find_adapter(make())


def test_a_wrapper_that_forwards_attributes() -> None:
    model = Merging(config())
    assert find_adapter(Forwarding(model)).module is model


@pytest.fixture
def rivals() -> Iterator[None]:
    for name in ("one", "two"):
        register_adapter(name)(type(name, (Adapter,), {"classes": (f"{__name__}.Merging",)}))
    yield
    for name in ("one", "two"):
        ADAPTERS.remove(name)


def test_two_claims(rivals) -> None:
    with pytest.raises(UnsupportedModelError, match=r"Merging is claimed by several adapters: one .*, two "):
        find_adapter(Merging(config()))


@pytest.fixture
def changed() -> Iterator[None]:
    register_adapter("changed")(type("Changed", (Adapter,), {"classes": (f"{__name__}.MerelyNamed",)}))
    yield
    ADAPTERS.remove("changed")


def test_a_changed_signature_is_named(changed) -> None:
    with pytest.raises(LayoutError) as error:
        attach(MerelyNamed(config()))
    assert "(self, prompt, pictures)" in str(error.value)
    assert "(..., input_ids, attention_mask, labels, ...)" in str(error.value)


# --- the kit finds what is wrong ---


class Reordered(Merging):
    """Moves two text tokens."""

    def prepare_inputs_labels_for_multimodal(
        self, input_ids, position_ids, attention_mask, past_key_values, labels, images
    ):
        ids, positions, mask, past, embeds, labels = super().prepare_inputs_labels_for_multimodal(
            input_ids, position_ids, attention_mask, past_key_values, labels, images
        )
        order = torch.arange(labels.shape[1])
        order[-2:] = order[-2:].flip(0)
        return ids, positions, mask, past, embeds[:, order], labels[:, order]


class Forgetful(Scattering):
    """Zeros in the images' places."""

    def forward(self, images=None, **kwargs):
        return super().forward(images=images * 0, **kwargs)

    def __init__(self, config):
        super().__init__(config)
        self.projector = nn.Linear(3, config.hidden_size, bias=False)


class Stubborn(Scattering):
    """Behaves differently once hooks are on its decoder."""

    def forward(self, **kwargs):
        output = super().forward(**kwargs)
        if self.model._forward_pre_hooks:
            output["loss"] = output["loss"] * 1.001
        return output


@pytest.mark.parametrize(
    ("cls", "checks"),
    [
        (WithPositions, ["text_embeddings"]),
        (Reordered, ["text_order: failed (the merge method returned the text tokens of row"]),
        (Forgetful, ["image_rows: failed (an image position holds zeros"]),
        (NoFeatures, ["image_rows: failed (12 of 12 image positions hold an embedding of a token"]),
        (Stubborn, ["weight_zero: failed (loss", "term_in_loss_and_gradients: failed (loss: off by"]),
    ],
)
def test_the_kit_says_in_words_what_failed(cls: type, checks: list[str]) -> None:
    with pytest.raises(ConformanceError) as error:
        check_adapter(builder(cls), lambda: batch_for(cls))
    for check in checks:
        assert check in str(error.value)


def test_a_check_can_be_left_out() -> None:
    outcomes = check_adapter(builder(Scattering), lambda: batch_for(Scattering), skip=["peft"])
    assert [outcome.check for outcome in outcomes if outcome.words == "asked for"] == ["peft"]
    with pytest.raises(ValueError, match="no check is named pfet"):
        check_adapter(builder(Scattering), lambda: batch_for(Scattering), skip=["pfet"])
