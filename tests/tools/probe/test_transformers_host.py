"""The probe on transformers' own Llava, saved with its processor and chat template, in the newest transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import native_models as families
import pytest
import torch
from native_checkpoint import COLORS, WORDS, write_checkpoint
from PIL import Image

from llava_vista import VistaConfig
from llava_vista.cli import main
from llava_vista.errors import ProbeError
from llava_vista.hooks.probed_samples import SampleProbe
from llava_vista.tools.probe.conversation_samples import load_samples, open_image
from llava_vista.tools.probe.hosts import LoadOptions, load_checkpoint
from llava_vista.tools.probe.hosts.transformers_host import TransformersHost, expand_labels
from llava_vista.tools.probe.layer_readings import LayerReadings, attention_record

pytestmark = pytest.mark.environments("latest")

OPTIONS = LoadOptions(None, None, torch.device("cpu"), torch.float32)
IMAGE_ROWS = 16
#: one of each way in which towers give their features back
TOWERS = ("Llava", "LlavaNext", "Qwen2_5_VL", "Qwen3VL", "InternVL", "Gemma3", "Mistral3")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The checkpoint, and the data: conversations of one and of two turns, so that batches are ragged."""
    root = tmp_path_factory.mktemp("native")
    records = []
    for number in range(12):
        color = list(COLORS)[number % 4]
        picture = Image.new("RGB", (20, 16), COLORS[color])
        picture.putpixel((number, 3), (9, 99, 9))
        picture.save(root / f"{number}.png")
        turns = [("human", "<image>\nwhat is this"), ("gpt", f"a {color} square")]
        turns += [("human", "and now"), ("gpt", color)] if number % 3 == 0 else []
        parts: list[dict[str, Any]] = [{"from": speaker, "value": value} for speaker, value in turns]
        parts[1]["visual"] = list(COLORS)
        records.append({"id": number, "image": f"{number}.png", "conversations": parts})
    (root / "data.json").write_text(json.dumps(records))
    return write_checkpoint(root / "model"), root / "data.json"


def test_information_and_alignment(site) -> None:
    """Against the literal: one sample alone, its image's rows moved to the end where no text sees them."""
    checkpoint, data = site
    subject = load_checkpoint(checkpoint, OPTIONS)
    assert subject.name == "transformers"
    samples = load_samples(data, None, 5, 0).chosen
    encoded = [subject.encode(sample.turns, open_image(sample.image)) for sample in samples]
    batch = subject.collate(encoded)
    assert not bool(batch["attention_mask"].all())
    for labels, sample in zip(batch["labels"], samples, strict=True):
        answers = " ".join(f"{turn.answer} </s>" for turn in sample.turns)
        assert subject.tokenizer.decode(labels[labels >= 0].tolist()).split() == answers.split()
        assert subject.decode(labels[labels >= 0].tolist()).split() == answers.replace("</s>", "").split()
    model = subject.model
    probe = SampleProbe(model, VistaConfig())
    readings = LayerReadings(probe.observer, attention=True, states=True)
    with torch.no_grad():
        found = probe.take(model(**batch).loss)
    readings.remove()
    probe.observer.remove()
    with torch.no_grad():
        for measured, item in zip(found, encoded, strict=True):
            alone = subject.collate([item])
            ids, labels = alone["input_ids"][0], alone["labels"][0]
            embeds = model.model.get_input_embeddings()(ids[None]).clone()
            image = ids == 4
            assert int(image.sum()) == IMAGE_ROWS
            features = model.get_image_features(pixel_values=alone["pixel_values"])
            features = getattr(features, "pooler_output", features)
            embeds[0, image] = (features[0] if isinstance(features, (tuple, list)) else features).reshape(
                IMAGE_ROWS, -1
            )
            positions = torch.arange(len(ids))
            answer = (labels >= 0).nonzero().squeeze(1)
            literal = []
            for order in (positions, torch.cat([positions[~image], positions[image]])):
                hidden = model.model.language_model(inputs_embeds=embeds[:, order], position_ids=order[None])[0]
                logits = torch.empty(len(ids), len(WORDS))
                logits[order] = model.lm_head(hidden)[0]
                literal.append(logits[answer - 1].log_softmax(-1).gather(1, labels[answer][:, None]).squeeze(1))
            torch.testing.assert_close(measured.nats, literal[0] - literal[1], atol=4e-5, rtol=1e-4)
            assert measured.nats.abs().max() > 1e-2
        plain, layout = model(**batch, output_attentions=True), readings.layout
        mass = plain.attentions[1].mean(1).masked_fill(~layout.image[:, None, :], 0).sum(-1)
        torch.testing.assert_close(readings.attention[1], mass)
        assert (len(readings.attention), len(readings.states)) == (2, 3)
        own = attention_record(readings.attention, layout, 1)
        after = layout.text[1] & (layout.image[1].cumsum(0) > 0)
        assert own["attention_by_layer"] == pytest.approx([float(a.mean(1)[1][after][:, layout.image[1]].sum(-1).mean())
                                                           for a in plain.attentions], abs=1e-6)  # fmt: skip
        assert sum(own["attending"]) == int(after.sum()) and own["image_tokens"] == IMAGE_ROWS


def test_end_to_end(site, tmp_path, capsys) -> None:
    checkpoint, data = site
    assert main(["probe", str(checkpoint), "--data", str(data), "--output", str(tmp_path), "--batch-size", "5"]) == 0
    (item,) = json.loads((tmp_path / "probe.json").read_text())["records"]
    assert (item["host"], item["adapter"]) == ("transformers", "transformers-llava")
    assert item["tokens"] == 12 * 4 + 4 * 2
    assert [sample["visual_tokens"] for sample in item["samples"]] == [1] * 12
    assert {sample["image_tokens"] for sample in item["samples"]} == {IMAGE_ROWS}
    assert len(item["neighbours"]["by_depth"]) == 3
    (item,) = json.loads((tmp_path / "comparison.json").read_text())["records"]
    assert len(item["curves"]["attention_by_layer"]) == 2
    assert item["samples"] == item["attention"]["n"] == item["visual_words"]["n"] == 12
    assert (tmp_path / "probe.png").stat().st_size > 50_000


def test_own_answers(site, tmp_path) -> None:
    checkpoint, data = site
    command = ["probe", str(checkpoint), "--images", str(data.parent), "--output", str(tmp_path), "--measures",
               "information", "--max-new-tokens", "4"]  # fmt: skip
    assert main(command) == 0
    (item,) = json.loads((tmp_path / "probe.json").read_text())["records"]
    assert item["answers"] == "the model's own, greedy"
    assert item["tokens"] > 0


@pytest.mark.parametrize("family", sorted(families.FAMILIES))
def test_a_masked_image_says_nothing_in_any_family(family) -> None:
    """Other pixels change the answer with the image, and not one bit of it without."""
    torch.manual_seed(0)
    made = families.FAMILIES[family]
    model = made.build().eval()
    model.set_attn_implementation("eager")
    batch = made.batch((1, 1))
    other = {**batch, "pixel_values": batch["pixel_values"].flip(-1) + 1}
    probe = SampleProbe(model, VistaConfig())
    readings = LayerReadings(probe.observer, attention=True, states=True)
    with torch.no_grad():
        model(**batch)
        model(**other)
    readings.remove()
    probe.observer.remove()
    seen, different = (one.information for one in probe._passes)
    assert not torch.equal(seen.with_image, different.with_image)
    assert not torch.equal(seen.with_image, seen.without)
    torch.testing.assert_close(seen.without, different.without, rtol=0, atol=0)
    assert len(readings.attention) == len(readings.states) - 1 == 2


@pytest.mark.parametrize("family", TOWERS)
def test_tower_features_differ_between_images(family) -> None:
    torch.manual_seed(0)
    made = families.FAMILIES[f"{family}ForConditionalGeneration"]
    model, batch = made.build().eval(), made.batch((1, 1))
    other = {**batch, "pixel_values": batch["pixel_values"].flip(-1) + 1}
    subject = TransformersHost.__new__(TransformersHost)  # no folder is loaded
    subject.model = model
    with torch.no_grad():
        features, others = subject.tower_features(batch), subject.tower_features(other)
        one = {name: value[:1] if name != "pixel_values" else value[: len(value) // 2] for name, value in batch.items()}
        alone = subject.tower_features(one)
    assert len(features) == 2
    assert not torch.allclose(features, others)
    torch.testing.assert_close(features[:1], alone)


def test_template_is_refused(site, tmp_path, capsys) -> None:
    checkpoint, data = site
    words = ["probe", str(checkpoint), "--data", str(data), "--output", str(tmp_path)]
    assert main([*words, "--template", "v1"]) == 2
    assert "LLaVA's own checkpoints" in capsys.readouterr().err


def test_labels_move_with_the_image() -> None:
    ids, labels = torch.tensor([1, 9, 5, 6]), torch.tensor([-100, -100, 5, 6])
    assert expand_labels(ids, labels, torch.tensor([1, 9, 9, 9, 5, 6])).tolist() == [-100] * 4 + [5, 6]
    wrapped = expand_labels(ids, labels, torch.tensor([1, 7, 9, 9, 8, 5, 6]))
    assert wrapped.tolist() == [-100] * 5 + [5, 6]
    assert expand_labels(ids, labels, ids).tolist() == labels.tolist()
    with pytest.raises(ProbeError, match="changes more of the text"):
        expand_labels(torch.tensor([1, 2, 3, 9, 5]), torch.tensor([-100] * 4 + [5]), torch.tensor([4, 2, 8, 9, 9, 5]))
