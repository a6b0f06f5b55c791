"""The generic adapter and its check of the first batch, the conformance kit's own failures, and wrong matches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from merging_host import IMAGE_TOKEN, Merging, Scattering, batch_for, config
from torch import nn
from transformers import LlamaForCausalLM

from llava_vista import Adapter, LayoutError, RegistryError, UnsupportedModelError, attach, register_adapter
from llava_vista.adapters import ADAPTERS, find_adapter
from llava_vista.attach import first_batch_check
from llava_vista.testing import ConformanceError, check_adapter


def builder(cls: type) -> Callable[[], nn.Module]:
    return lambda: cls(config())


class Codebook(Scattering):
    """Images are tokens of a codebook, looked up in the same table, as Emu3's are."""

    def __init__(self, config):
        super().__init__(config)
        self.projector = Codes(self)


class Codes(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.look_up = [model.get_input_embeddings]  # in a list, so that the model is no child of its own

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.look_up[0]()(IMAGE_TOKEN + 1 + images.argmax(dim=-1))


class Capped(Scattering):
    """Scales what its output layer reads, and caps the logits, as Inkling and Gemma do."""

    def __init__(self, config):
        super().__init__(config)
        self.lm_head.register_forward_pre_hook(lambda module, args: (args[0] / 3,))
        self.lm_head.register_forward_hook(lambda module, args, logits: 2 * torch.tanh(logits / 2))


@pytest.mark.parametrize("cls", [Merging, Scattering, Codebook, Capped])
def test_unknown_models_that_do_as_known_ones(cls: type) -> None:
    model = cls(config())
    assert find_adapter(model).adapter.name == "generic"
    check_adapter(builder(cls), lambda: batch_for(cls))
    handle = attach(model.train())
    model(**batch_for(cls)).loss.backward()
    assert list(handle.observer._check._left.values()) == [0]  # the first batch was checked, and found right
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
    batch = batch_for(Scattering)
    model(**batch)
    assert list(handle.observer._check._left.values()) == [0]
    handle.detach()
    # More look-ups of each token than are compared: the noise of every single one counts.
    many = first_batch_check.ROWS // batch["input_ids"].shape[1] + 1
    handle = attach(model)
    model(**{name: value.repeat(many, *[1] * (value.ndim - 1)) for name, value in batch.items()})
    assert list(handle.observer._check._left.values()) == [0]
    handle.detach()


class LooksUpByName(NoFeatures):
    """Calls its table with a keyword, and under no_grad where it is frozen."""

    def embed(self, ids):
        with torch.no_grad():
            return self.get_input_embeddings()(input=ids)


class LooksUpItself(NoFeatures):
    def embed(self, ids):
        return nn.functional.embedding(ids, self.get_input_embeddings().weight)


def test_no_way_of_looking_up_passes_unseen(caplog) -> None:
    model = LooksUpByName(config()).train()
    handle = attach(model)
    with pytest.raises(LayoutError, match="100% of the image positions"):
        model(**batch_for(LooksUpByName))
    handle.detach()
    model = LooksUpItself(config()).train()
    handle = attach(model)
    for _ in range(2):
        model(**batch_for(LooksUpItself))
    handle.detach()
    assert caplog.text.count("its embedding table Embedding was not called in a forward") == 1


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
        register_adapter(name)(type(name, (Adapter,), {"classes": (f"{Merging.__module__}.Merging",)}))
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


class SecondNorm(Scattering):
    """Its output layer reads something else than its decoder returns."""

    def __init__(self, config):
        super().__init__(config)
        self.lm_head.register_forward_pre_hook(lambda module, args: (args[0].cumsum(dim=-1),))


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
        (Reordered, ["the merge method returned the text tokens of row"]),
        (Forgetful, ["image_rows: failed (an image position holds zeros"]),
        (NoFeatures, ["image_rows: failed (12 of 12 image positions hold an embedding of a token"]),
        (SecondNorm, ["last_hidden_state: failed (input of the output layer: off by"]),
        (Stubborn, ["weight_zero: failed (loss", "term_in_loss_and_gradients: failed (loss: off by"]),
    ],
)
def test_the_kit_says_in_words_what_failed(cls: type, checks: list[str]) -> None:
    with pytest.raises(ConformanceError) as error:
        check_adapter(builder(cls), lambda: batch_for(cls))
    for check in checks:
        assert check in str(error.value)


@pytest.mark.parametrize("cls", [Reordered, NoFeatures, MergingWithPositions])
def test_the_kit_reports_a_cause_once(cls: type) -> None:
    with pytest.raises(ConformanceError, match="1 of 13 checks failed") as error:
        check_adapter(builder(cls), lambda: batch_for(cls))
    assert len(str(error.value).splitlines()) == 2


class DelayedTower(Merging):
    """What `from_pretrained` returns does not run until the host loads the rest."""

    is_complete = False

    def features(self, images):
        if not self.is_complete:
            raise AttributeError("vision tower is not loaded")
        return super().features(images)

    def gradient_checkpointing_enable(self):
        super().gradient_checkpointing_enable({"use_reentrant": True})


class Separators(Merging):
    """The last row of each image is an embedding of a token, as newline tokens in VILA."""

    def features(self, images):
        rows = super().features(images)
        return torch.cat([rows[:, :-1], self.embed(torch.full((len(rows), 1), 3))], dim=1)


def complete(cls: type) -> nn.Module:
    model = cls(config())
    model.is_complete = True
    return model


def test_what_hosts_may_do_is_no_failure() -> None:
    outcomes = check_adapter(lambda: complete(DelayedTower), lambda: batch_for(Merging))
    assert [one.check for one in outcomes if one.result != "ok"] == ["save_and_load"]
    assert "does not run after from_pretrained: vision tower is not loaded" in str(outcomes)
    check_adapter(builder(Separators), lambda: batch_for(Merging))


@pytest.mark.parametrize(
    ("sheet", "message"),
    [
        ({"merge_metod": "embed"}, "merge_metod means nothing. Did you mean merge_method?"),
        ({"classes": "my.Class"}, "a tuple of qualified names was expected"),
        ({"classes": ("Class",)}, "a tuple of qualified names was expected"),
        ({"merge_returns": {3: ("input_embeds", "mask", "labels")}}, "3 names were expected, 'inputs_embeds'"),
        ({"merge_returns": {4: ("inputs_embeds", "mask", "labels")}}, "4 names were expected"),
    ],
)
def test_typing_errors_in_a_sheet_are_named(sheet: dict, message: str) -> None:
    with pytest.raises(RegistryError) as error:
        register_adapter("typo")(type("Typo", (Adapter,), sheet))
    assert message in str(error.value) and "typo" not in ADAPTERS


def test_a_check_can_be_left_out() -> None:
    outcomes = check_adapter(builder(Scattering), lambda: batch_for(Scattering), skip=["peft"])
    assert [outcome.check for outcome in outcomes if outcome.words == "asked for"] == ["peft"]
    with pytest.raises(ValueError, match="no check is named pfet"):
        check_adapter(builder(Scattering), lambda: batch_for(Scattering), skip=["pfet"])
