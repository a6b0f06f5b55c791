"""The probe with a tower of timm's: the real package and a real (tiny) model; only torchvision is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from native_checkpoint import write_checkpoint
from PIL import Image
from torchvision_stand_in import stand_in

from llava_vista.cli import main
from llava_vista.errors import ProbeError
from llava_vista.tools.kit.timm_tower import TimmTower

pytestmark = pytest.mark.environments("latest")

CPU = torch.device("cpu")
SIZES = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 16, "num_heads": 2}


@pytest.fixture(scope="module")
def timm() -> Iterator[Any]:
    with stand_in():
        import timm

        yield timm


@pytest.fixture(scope="module")
def saved(timm: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """A tiny ViT as timm saves it, and its name."""
    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, **SIZES)
    timm.models.save_for_hf(model, folder, model_args=SIZES)
    return model.eval(), f"local-dir:{folder}"


def pictures() -> list[Image.Image]:
    """Of different shapes, each with detail that a wrong crop would lose."""
    shapes = ((40, 60), (60, 40), (33, 90), (32, 32))
    random = numpy.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=numpy.uint8)) for shape in shapes]


def test_features_are_the_models_own(saved) -> None:
    """Against the literal: resized to 32 / 0.9, cut in the middle, normalised, without the classifier."""
    model, name = saved
    found = TimmTower(name, CPU).features(pictures())
    assert found.shape == (4, SIZES["embed_dim"])
    for mine, picture in zip(found, pictures(), strict=True):
        short = min(picture.size)
        resized = picture.resize([int(35 * edge / short) for edge in picture.size], Image.Resampling.BICUBIC)
        left, top = (round((edge - 32) / 2) for edge in resized.size)
        pixels = torch.tensor(numpy.asarray(resized.crop((left, top, left + 32, top + 32)))) / 255
        normal = ((pixels - 0.5) / 0.5).permute(2, 0, 1)[None]
        with torch.no_grad():
            literal = model.forward_head(model.forward_features(normal), pre_logits=True)[0]
        torch.testing.assert_close(mine, literal, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_models_that_timm_cannot_make_are_named(timm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name, message in (
        ("nothing_at_all", "Unknown model"),
        ("vit_tiny_patch16_224", "local-dir:FOLDER"),  # its weights are not here, and there is no hub
        (f"local-dir:{tmp_path / 'nowhere'}", "nowhere"),
    ):
        with pytest.raises(ProbeError, match=message):
            TimmTower(name, CPU)


def test_end_to_end(saved, tmp_path) -> None:
    checkpoint = write_checkpoint(tmp_path / "model")
    records = []
    for number, picture in enumerate(pictures() * 3):
        picture.putpixel((number, number), (255, 0, 0))
        picture.save(tmp_path / f"{number}.png")
        turns = [{"from": "human", "value": "<image>\nwhat is this"}, {"from": "gpt", "value": "a red square"}]
        records.append({"id": number, "image": f"{number}.png", "conversations": turns})
    (tmp_path / "data.json").write_text(json.dumps(records))
    _, name = saved
    words = ["probe", str(checkpoint), "--data", str(tmp_path / "data.json"), "--measures", "neighbours"]
    own, other = tmp_path / "own", tmp_path / "other"
    assert main([*words, "--output", str(own)]) == 0
    assert main([*words, "--output", str(other), "--tower", name]) == 0
    found = [
        json.loads((folder / "comparison.json").read_text())["records"][0]["neighbours"] for folder in (own, other)
    ]
    assert found[1]["tower"] == f"timm {name}"
    assert found[1]["images"] == 12
    assert found[0]["by_depth"] != found[1]["by_depth"]
    assert main([*words, "--output", str(other), "--tower", "nothing_at_all"]) == 2
