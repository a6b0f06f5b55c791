"""attach and detach on the real LLaVA-1.5 classes."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
import weakref

import pytest
import torch
from literal import literal_own_text, literal_vista
from tiny_llava import make_batch, same, step

from llava_vista import (
    AttachError,
    NonFiniteLossError,
    VistaConfig,
    attach,
)

pytestmark = pytest.mark.environments("llava")

MERGE = "prepare_inputs_labels_for_multimodal"


def fingerprint(model: torch.nn.Module) -> dict:
    """All that attach may touch: class attributes along the MRO, hooks and instance attributes of every module."""
    classes = {cls: dict(vars(cls)) for cls in type(model).__mro__ if cls is not object}
    modules = {
        name: {
            key: dict(value) if key.startswith("_forward") and hasattr(value, "items") else id(value)
            for key, value in vars(module).items()
            if key != "training"
        }
        for name, module in model.named_modules()
    }
    return {"classes": classes, "modules": modules}


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("method", ["l2", "cosine"])
def test_loss_is_cross_entropy_plus_weight_times_vista(make_model, kind: str, method: str) -> None:
    model, batch = make_model(kind), make_batch()
    plain, _ = step(model, batch)
    handle = attach(model, VistaConfig(method=method, weight=0.5))
    total, _ = step(model, batch)
    metrics = handle.metrics()
    handle.detach()

    seen = {}
    hook = model.model.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(embeds=kwargs["inputs_embeds"], hidden=output[0]),
        with_kwargs=True,
    )
    model(**batch)
    hook.remove()
    codes = torch.arange(batch["labels"].numel()).view_as(batch["labels"])
    merged = model.prepare_inputs_labels_for_multimodal(
        batch["input_ids"], None, batch["attention_mask"], None, codes, batch["images"]
    )
    text, image = merged[5] >= 0, (merged[5] < 0) & merged[2].bool()
    expected, similarity = literal_vista(seen["embeds"].double(), seen["hidden"].double(), text, image, method)
    assert metrics["ce_loss"] == pytest.approx(plain, abs=1e-6)
    assert metrics["vista_loss"] == pytest.approx(expected.item(), abs=1e-6)
    assert metrics["vista_similarity"] == pytest.approx(similarity.item(), abs=1e-6)
    assert metrics["vista_aligned_samples"] == 2
    ids = torch.where(text, batch["input_ids"].flatten()[merged[5].clamp(min=0)], 0)
    wanted = literal_own_text(method, ids, seen["embeds"], seen["hidden"], torch.where(text, 0, 2 * image.long() - 1))
    keys = ("vista_margin", "vista_own_first", "vista_own_first_chance")
    assert [metrics[key] for key in keys] == pytest.approx(wanted[:3], abs=1e-6)
    assert total == pytest.approx(plain + 0.5 * expected.item(), abs=1e-6)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_the_sum(make_model, kind: str, checkpointing: bool) -> None:
    model, batch = make_model(kind), make_batch()
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    _, plain = step(model, batch)
    handle = attach(model, add_to_loss=False)
    model.zero_grad(set_to_none=True)
    model(**batch)
    handle.loss().backward()
    term = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    handle.detach()
    handle = attach(model, VistaConfig(weight=2.0))
    _, total = step(model, batch)
    handle.detach()
    assert "model.embed_tokens.weight" in term
    assert "model.mm_projector.0.weight" in term
    for name, gradient in total.items():
        torch.testing.assert_close(gradient, plain.get(name, 0) + 2 * term.get(name, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_zero_and_observing_change_no_bit(make_model, kind: str, dtype: torch.dtype) -> None:
    model, batch = make_model(kind).to(dtype), make_batch()
    batch["images"] = batch["images"].to(dtype)
    plain = step(model, batch)
    for config, add in ((VistaConfig(weight=0), True), (VistaConfig(), False)):
        handle = attach(model, config, add_to_loss=add)
        loss, gradients = step(model, batch)
        assert loss == plain[0]
        assert same(gradients, plain[1])
        assert handle.metrics()["vista_loss"] > 0
        handle.detach()


@pytest.mark.parametrize("kind", ["llama", "mistral", "mpt"])
def test_detach_restores_everything(make_model, kind: str) -> None:
    model = make_model(kind)
    before, keys = fingerprint(model), list(model.state_dict())
    handle = attach(model)
    assert list(model.state_dict()) == keys
    assert fingerprint(model) != before
    handle.detach()
    handle.detach()  # harmless
    assert fingerprint(model) == before


def test_detach_restores_after_an_exception(make_model) -> None:
    model, batch = make_model(), make_batch()
    plain, before = step(model, batch), fingerprint(model)
    handle = attach(model)
    with pytest.raises(IndexError):
        model(**{**batch, "input_ids": torch.full_like(batch["input_ids"], 10_000)})
    assert step(model, batch)[0] > plain[0]  # and the next step works
    handle.detach()
    assert fingerprint(model) == before
    assert step(model, batch)[0] == plain[0]


def test_two_models_of_one_class(make_model) -> None:
    first, second, batch = make_model(), make_model(), make_batch()
    plain = step(first, batch)[0]
    one, two = attach(first), attach(second, VistaConfig(weight=0))
    one.detach()
    assert step(first, batch)[0] == plain
    assert step(second, batch)[0] == plain
    assert two.metrics()["vista_aligned_samples"] == 2
    two.detach()
    assert MERGE not in vars(type(first))


def test_copy_and_pickle_of_an_attached_model_are_plain(make_model) -> None:
    model, batch = make_model(), make_batch()
    plain = step(model, batch)
    handle = attach(model)
    copied = copy.deepcopy(model)
    pickled = pickle.loads(pickle.dumps(model))
    buffer = io.BytesIO()
    torch.save(model, buffer)
    for other in (copied, pickled):
        loss, gradients = step(other, batch)
        assert loss == plain[0]
        assert same(gradients, plain[1])
    assert handle.metrics()["vista_aligned_samples"] == 0
    handle.detach()


def test_saved_checkpoint_is_the_baselines(make_model, tmp_path) -> None:
    model = make_model()
    keys = set(model.state_dict())
    handle = attach(model)
    model.save_pretrained(tmp_path, safe_serialization=True)
    handle.detach()
    loaded = type(model).from_pretrained(tmp_path)
    assert set(loaded.state_dict()) | {key for key in keys if "vision_tower" in key} == keys


def test_generation_is_untouched(make_model) -> None:
    model = make_model().eval()
    model.config.use_cache = True
    batch = make_batch((1,))
    call = {"inputs": batch["input_ids"], "images": batch["images"], "max_new_tokens": 5, "do_sample": False}
    plain = model.generate(**call)
    with torch.no_grad():
        evaluated = model(**batch).loss
    handle = attach(model)
    assert torch.equal(model.generate(**call), plain)
    with torch.no_grad():
        assert torch.equal(model(**batch).loss, evaluated)
    assert handle.metrics()["vista_aligned_samples"] == 0  # evaluation is not counted
    handle.detach()


def test_observing_in_evaluation(make_model) -> None:
    model, batch = make_model().eval(), make_batch()
    handle = attach(model, add_to_loss=False)
    with torch.no_grad():
        model(**batch)
    assert handle.loss().item() > 0
    handle.detach()


def test_batches_without_images(make_model) -> None:
    model = make_model()
    handle = attach(model)
    batch = {key: value for key, value in make_batch((0, 0)).items() if key != "images"}
    loss, gradients = step(model, batch)  # decoders get input_ids and no inputs_embeds
    metrics = handle.metrics()
    assert math.isfinite(loss)
    assert gradients
    assert metrics["vista_aligned_samples"] == 0
    assert not {"vista_loss", "vista_similarity"} & set(metrics)  # no mean over no samples
    assert metrics["ce_loss"] == pytest.approx(loss)
    step(model, make_batch((0, 0)))  # dummy images, no placeholder
    assert handle.metrics()["vista_aligned_samples"] == 0
    handle.detach()


def test_image_cut_off_by_the_length_limit(make_model) -> None:
    model = make_model(tokenizer_model_max_length=1)
    handle = attach(model)
    step(model, make_batch((1, 1)))
    assert handle.metrics()["vista_aligned_samples"] == 0
    handle.detach()


def test_answer_scope(make_model) -> None:
    model, batch = make_model(), make_batch()
    handle = attach(model, VistaConfig(text_scope="answer"))
    step(model, batch)
    answer = handle.metrics()["vista_loss"]
    batch["labels"] = torch.where(batch["labels"] < 0, batch["labels"], 1)  # other labels, the same tokens supervised
    step(model, batch)
    assert handle.metrics()["vista_loss"] == pytest.approx(answer, abs=1e-6)
    handle.detach()
    handle = attach(model)
    step(model, batch)
    assert handle.metrics()["vista_loss"] != pytest.approx(answer, abs=1e-4)
    handle.detach()


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_inside_peft(make_model, kind: str) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        make_model(kind), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=2, lora_dropout=0.0)
    )
    batch = make_batch()
    plain, gradients = step(model, batch)
    handle = attach(model)
    total, with_term = step(model, batch)
    assert total - plain == pytest.approx(handle.metrics()["vista_loss"], abs=1e-6)
    assert with_term.keys() == gradients.keys()
    assert not same(with_term, gradients)
    handle.detach()
    loss, again = step(model, batch)
    assert loss == plain
    assert same(again, gradients)


def test_wrapping_after_attaching_is_noticed(make_model) -> None:
    """PEFT 0.10 calls the inner model's forward directly, so the term could not reach the loss."""
    from peft import LoraConfig, get_peft_model

    model = make_model()
    handle = attach(model)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=2))
    with pytest.raises(AttachError, match="Attach to the object whose forward the training loop calls"):
        wrapped(**make_batch())
    handle.detach()


def test_mpt_is_recognised_and_its_own_error_comes_through(make_model) -> None:
    """llava-torch 1.2.2's MPT class calls its merge method with five of seven arguments."""
    model, batch = make_model("mpt"), make_batch()
    with pytest.raises(TypeError) as plain:
        model(**batch)
    handle = attach(model)
    assert handle.decoder is model.transformer
    with pytest.raises(TypeError) as attached:
        model(**batch)
    assert str(attached.value) == str(plain.value)
    assert "images" in str(plain.value)
    handle.detach()


def test_nothing_is_kept_after_a_step(make_model) -> None:
    model, batch = make_model(), make_batch()
    handle = attach(model)
    seen = []

    def remember(module, args, kwargs, output):
        seen.extend([weakref.ref(kwargs["inputs_embeds"]), weakref.ref(output[0])])

    hook = model.model.register_forward_hook(remember, with_kwargs=True)
    step(model, batch)
    hook.remove()
    gc.collect()
    assert len(seen) == 2
    assert not any(tensor() is not None for tensor in seen)
    handle.detach()


def test_dropping_an_attached_model_frees_it(make_model) -> None:
    model = make_model()
    attach(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_not_finite_stops_at_the_metrics_naming_the_step(make_model) -> None:
    model, batch = make_model(), make_batch()
    handle = attach(model)
    step(model, batch)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.inf
    step(model, batch)
    with pytest.raises(NonFiniteLossError, match="at step 1 on rank 0"):
        handle.metrics()
    handle.detach()
