"""Samples that share a row, by every signal that collators send: exact in value and gradient, in every family."""

from __future__ import annotations

import inspect

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from literal import literal_vista
from native_models import FAMILIES, IMAGE, LLAVA, VIDEO

from llava_vista import LayoutError, VistaConfig, attach
from llava_vista.attach.observation import Observer, Recorder
from llava_vista.attach.packing import attended, sample_starts
from llava_vista.hooks.image_information import measure, output_head

pytestmark = pytest.mark.environments("latest")

QWEN = ["Qwen2VL", "Qwen2_5_VL", "Qwen3VL", "Glm4v"]
NAMES = [LLAVA, *(f"{name}ForConditionalGeneration" for name in QWEN)]
BY_TOKEN = ("input_ids", "labels", "mm_token_type_ids")


def sample(name: str, images: int, seed: int) -> dict:
    """One sample: some images, or text only (-1), or what the family makes of 0 (a video, or text)."""
    batch = FAMILIES[name].batch((max(images, 0),), seed)
    if images == -1:
        batch = {key: value for key, value in batch.items() if key in BY_TOKEN}
        text = torch.randint(3, 57, (1, 5 + seed % 3), generator=torch.Generator().manual_seed(seed))
        batch = {"input_ids": text, "labels": text.clone(), "mm_token_type_ids": torch.zeros_like(text)}
        batch = {key: value for key, value in batch.items() if key != "mm_token_type_ids" or name != LLAVA}
    batch.pop("attention_mask", None)
    return {key: value for key, value in batch.items() if value.numel()}


def positions_of(model: torch.nn.Module, one: dict) -> torch.Tensor:
    """(1, L), or (3, 1, L) by the host's own method."""
    if not hasattr(model.model, "get_rope_index"):
        return torch.arange(one["input_ids"].shape[1])[None]
    known = inspect.signature(model.model.get_rope_index).parameters
    return model.model.get_rope_index(**{key: value for key, value in one.items() if key in known})[0]


def pack(samples: list[dict]) -> dict:
    keys = {key: None for one in samples for key in one}
    return {
        key: torch.cat([one[key] for one in samples if key in one], dim=1 if key in BY_TOKEN else 0) for key in keys
    }


def lengths(samples: list[dict]) -> torch.Tensor:
    return torch.tensor([0, *(one["input_ids"].shape[1] for one in samples)]).cumsum(0).int()


def numbered(samples: list[dict]) -> torch.Tensor:
    return torch.cat([torch.full_like(one["input_ids"], n) for n, one in enumerate(samples, 1)], dim=1)


def blocks(samples: list[dict]) -> torch.Tensor:
    number = numbered(samples)[0]
    return torch.where((number[:, None] == number[None]).tril(), 0.0, torch.finfo(torch.float32).min)[None, None]


def signals(model: torch.nn.Module, samples: list[dict]) -> dict[str, dict]:
    each = [positions_of(model, one) for one in samples]
    positions, cumulative = torch.cat(each, dim=-1), lengths(samples)
    text = torch.cat([torch.arange(one["input_ids"].shape[1])[None] for one in samples], dim=1)
    found = {
        "cumulative": {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "position_ids": positions},
        "numbered mask": {"attention_mask": numbered(samples)},
        "numbered mask, positions": {"attention_mask": numbered(samples), "position_ids": positions},
        "blocks": {"attention_mask": blocks(samples)},
        "boolean blocks": {"attention_mask": blocks(samples) == 0, "position_ids": positions},
        "blocks, positions": {"attention_mask": blocks(samples), "position_ids": positions},
        "positions": {"position_ids": positions},
        "positions, ones": {"attention_mask": torch.ones_like(text), "position_ids": positions},
    }
    if positions.ndim == 3:
        del found["blocks"]  # the host's own positions need a (B, L) mask
        found["positions from 1"] = {"position_ids": positions + 1}
        found["four axes, text first"] = {"position_ids": torch.cat([text[None], positions])}
        found["four axes, a copy first"] = {"position_ids": torch.cat([positions[:1], positions])}
        found["four axes, blocks"] = {**found["four axes, a copy first"], "attention_mask": blocks(samples)}
    return found


def states(model: torch.nn.Module, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder receives and returns, by hooks of the test's own."""
    seen: dict[str, torch.Tensor] = {}
    decoder = model.model.language_model
    hook = decoder.register_forward_hook(
        lambda module, args, kwargs, output: seen.update(embeds=kwargs["inputs_embeds"], hidden=output[0]),
        with_kwargs=True,
    )
    with torch.no_grad():
        model(**batch)
    hook.remove()
    return seen["embeds"].double(), seen["hidden"].double()


def by_loops(model: torch.nn.Module, samples: list[dict], batch: dict) -> tuple[float, int]:
    """The mean over the samples, each a row of masks over the shared row."""
    embeds, hidden = states(model, batch)
    ids = torch.cat([one["input_ids"] for one in samples], dim=1)[0]
    image = (ids == IMAGE) | (ids == VIDEO)
    mine = torch.stack([numbered(samples)[0] == n for n in range(1, len(samples) + 1)])
    count = sum(bool((image & own).any()) for own in mine)
    rows = len(samples)
    value, _ = literal_vista(
        embeds.expand(rows, -1, -1), hidden.expand(rows, -1, -1), mine & ~image, mine & image, "l2"
    )
    return float(value), count


mixtures = st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=5)


@pytest.mark.parametrize("name", NAMES)
def test_every_signal_gives_each_sample_its_own_image(name: str) -> None:
    torch.manual_seed(0)
    model = FAMILIES[name].build().train()
    handle = attach(model)

    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(images=mixtures, seed=st.integers(0, 99))
    def check(images, seed):
        samples = [sample(name, count, seed + n) for n, count in enumerate(images)]
        for signal, more in signals(model, samples).items():
            batch = {**pack(samples), **more}
            model(**batch)
            metrics = handle.metrics()
            value, count = by_loops(model, samples, batch)
            handle.metrics()  # the test's own run does not count
            assert metrics["vista_aligned_samples"] == count, (signal, images)
            if count:
                assert metrics["vista_loss"] == pytest.approx(value, abs=1e-6), (signal, images)

    check()
    handle.detach()


@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
@pytest.mark.parametrize("name", NAMES)
def test_packed_equals_unpacked_with_gradients(name: str, method: str) -> None:
    """Attention and positions keep the samples apart, so each is what it is alone."""
    torch.manual_seed(0)
    model = FAMILIES[name].build().train()
    samples = [sample(name, count, seed) for seed, count in enumerate((-1, 2, -1, 1, 0, -1))]
    config = VistaConfig(method=method, text_scope="answer")
    results = []
    for packed in (True, False):
        handle = attach(model, config, add_to_loss=False)
        model.zero_grad()
        if packed:
            model(**pack(samples), **signals(model, samples)["blocks, positions"])
        else:
            handle.remove_entry()  # as under a Trainer: the passes until the loss is taken count as one batch
            for one in samples:
                model(**one)
        loss = handle.loss()
        loss.backward()
        results.append(
            (loss.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
        )
        handle.detach()
    (loss, gradients), (expected, wanted) = results
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    largest = max(float(value.abs().max()) for value in wanted.values())
    assert gradients.keys() == wanted.keys() and largest > 0
    for key, value in wanted.items():
        assert float((gradients[key] - value).abs().max()) <= 1e-5 * largest, key


def _spans(model: torch.nn.Module, **batch: torch.Tensor):
    recorder = Recorder()
    observer = Observer(model, recorder)
    model(**batch)
    observer.remove()
    if recorder.last.problem is not None:
        raise recorder.last.problem
    return recorder.last.layout


def test_padding_at_the_end_belongs_to_no_sample() -> None:
    model = FAMILIES[LLAVA].build().train()
    samples = [sample(LLAVA, 1, 1), sample(LLAVA, 1, 2)]
    batch = pack(samples)
    more = torch.full((1, 6), 5)
    ids = torch.cat([batch["input_ids"], more], dim=1)
    length = batch["input_ids"].shape[1]
    number = torch.nn.functional.pad(numbered(samples), (0, 6))
    allowed = (number[0, :, None] == number[0, None]).tril() & (number[0] > 0)[:, None]
    for signal in (
        {"cu_seq_lens_q": lengths(samples)},
        {"cu_seq_lens_q": torch.cat([lengths(samples), lengths(samples)[-1:]])},
        {"attention_mask": number},
        {"attention_mask": torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None]},
    ):
        layout = _spans(model, input_ids=ids, pixel_values=batch["pixel_values"], **signal)
        assert not layout.text[:, length:].any() and layout.text.sum() + layout.image.sum() == length
        assert layout.samples == 2


def test_what_is_not_packed_stays_one_sample() -> None:
    model = FAMILIES[LLAVA].build().train()
    one = sample(LLAVA, 1, 1)
    length = one["input_ids"].shape[1]
    ones = torch.ones(1, length, dtype=torch.long)
    hole = ones.clone()
    hole[0, 3:5] = 0
    left = torch.cat([torch.zeros(1, 3), torch.ones(1, length - 3)], dim=1).long()
    for signal in (
        {}, {"attention_mask": ones}, {"attention_mask": ones.bool()}, {"attention_mask": hole},
        {"attention_mask": ones * 3}, {"cu_seq_lens_q": torch.tensor([0, length])},
        {"cu_seq_lens_q": torch.tensor([0, length]), "position_ids": torch.arange(length)[None]},
        {"position_ids": torch.arange(length)[None] + 7}, {"attention_mask": left},
    ):  # fmt: skip
        assert _spans(model, **one, **signal).spans is None, signal


def test_ordinary_batches_are_read_on_the_device_only(monkeypatch) -> None:
    """Boolean masks need no look at all; a mask of integers one small copy, which is read without a tensor's method."""
    model = FAMILIES[LLAVA].build().train()
    handle = attach(model)
    calls: list[str] = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "nonzero"):
        original = getattr(torch.Tensor, name)

        def method(self, *args, original=original, name=name, **kwargs):
            if "llava_vista/attach" in inspect.currentframe().f_back.f_code.co_filename:
                calls.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, method)
    for step in range(3):
        if step == 1:
            calls.clear()
        model(**FAMILIES[LLAVA].batch((1, 0, 2), step)).loss.backward()
        model(**pack([sample(LLAVA, 1, 1), sample(LLAVA, 2, 2)]), attention_mask=None, position_ids=None)
    assert not calls
    handle.detach()


@pytest.mark.parametrize("mask", [torch.ones(1, 1, 4, 6), torch.ones(1, 6), object()])
def test_a_mask_that_says_nothing_is_named(mask) -> None:
    with pytest.raises(LayoutError, match="attention_mask"):
        attended({"attention_mask": mask}, torch.Size((1, 4)), torch.device("cpu"))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_cumulative_lengths_in_the_place_of_the_mask(dimensions: int) -> None:
    """qwen-vl-finetune passes (N + 1,), InternVL chat (1, N + 1)."""
    shape, cpu = torch.Size((1, 9)), torch.device("cpu")
    mask = torch.tensor([0, 4, 9], dtype=torch.int32).reshape((1, 3)[2 - dimensions :])
    starts = sample_starts({"attention_mask": mask}, shape, cpu)
    assert starts is not None and starts[0].nonzero().flatten().tolist() == [0, 4]
    assert attended({"attention_mask": mask}, shape, cpu).all()


@pytest.mark.parametrize("name", ["cu_seq_lens_q", "cu_seqlens", "cu_seq_lens_k", "seq_idx"])
def test_marks_in_any_form(name: str) -> None:
    shape, cpu = torch.Size((1, 9)), torch.device("cpu")
    mark = torch.tensor([0] * 4 + [1] * 5 if name == "seq_idx" else [0, 4, 9])
    for form in (mark, mark.int()[None], mark[:, None].float(), mark.tolist(), tuple(mark.tolist()), mark.numpy()):
        assert sample_starts({name: form}, shape, cpu)[0].nonzero().flatten().tolist()[-1:] == [4]
        assert attended({name: form}, shape, cpu).all()
    for bad in (object(), torch.zeros(3, 4), "0 4 9"):
        with pytest.raises(LayoutError, match=name):
            sample_starts({name: bad}, shape, cpu)


def test_samples_are_the_batch_of_infonce() -> None:
    """Two samples in one row are each other's negatives: not the value of one sample, which is log 1 = 0."""
    torch.manual_seed(0)
    model = FAMILIES[LLAVA].build().train()
    samples = [sample(LLAVA, 1, 1), sample(LLAVA, 1, 2)]
    handle = attach(model, VistaConfig(method="infonce"), add_to_loss=False)
    model(**pack(samples), **signals(model, samples)["positions"])
    assert float(handle.loss()) > 0.1
    handle.detach()


def test_a_mask_of_another_length_is_a_layout_error() -> None:
    """LLaMA-Factory makes one for a pack of text only: the host's own error must come, not one of ours in its call."""
    mask = torch.zeros(1, 1, 12, 12)
    with pytest.raises(LayoutError, match="does not fit input_ids"):
        sample_starts({"attention_mask": mask}, torch.Size((1, 10)), mask.device)


@pytest.mark.parametrize("name", [LLAVA, "Qwen2_5_VLForConditionalGeneration"])
def test_packed_samples_are_measured_as_unpacked(name: str) -> None:
    """Blocks keep the samples of a row apart. A first label of a sample is the guess of another sample's last token."""
    torch.manual_seed(0)
    model = FAMILIES[name].build().eval()
    samples = [sample(name, images, seed) for seed, images in enumerate((1, -1, 2, 1))]
    observer = Observer(model, recorder := Recorder())

    def measured(**batch):
        with torch.no_grad():
            model(**batch)
            return measure(observer, output_head(observer.inner), recorder.last)

    alone = [measured(**one) for one in samples]
    assert alone[1].nats.shape == (1, 0)  # no image
    for signal in ("blocks, positions", "boolean blocks"):
        found = measured(**pack(samples), **signals(model, samples)[signal])
        torch.testing.assert_close(found.nats, torch.cat([one.nats for one in alone], dim=1), atol=2e-5, rtol=1e-4)
        assert found.number.tolist() == [number for one in alone for number in one.number.tolist()]
        sizes = torch.bincount(found.sample).tolist()
        assert [size for size in sizes if size] == [len(one.number) for one in alone if len(one.number)]
    packed = signals(model, samples)["positions, ones"]
    assert "no attention mask keeps them apart" in measured(**pack(samples), **packed)
    observer.remove()
