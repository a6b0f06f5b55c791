"""Classes of the newest transformers that differ most from Llava. All of them: `scripts/hosts/native_classes.py`."""

from __future__ import annotations

import pytest
from native_batches import misread_rows
from native_more import MORE

from llava_vista import UnsupportedModelError, attach
from llava_vista.testing import check_adapter

pytestmark = pytest.mark.environments("latest")


@pytest.mark.parametrize(
    "name",
    [
        "Emu3ForConditionalGeneration",  # images are tokens of a codebook, looked up in the text's own table
        "Gemma4ForConditionalGeneration",  # sounds and videos beside images, masks by layer type
        "InklingForConditionalGeneration",  # sounds in a row without image, scaled input of the output layer
        "Qwen3OmniMoeThinkerForConditionalGeneration",  # sounds and videos beside images, mixture of experts
        "Qwen3_5ForConditionalGeneration",  # linear attention in some layers
        "VideoLlama3ForConditionalGeneration",  # videos of compressed grids
    ],
)
def test_conformance(name: str) -> None:
    outcomes = check_adapter(MORE[name].build, MORE[name].batch)
    assert not [str(outcome) for outcome in outcomes if outcome.result == "skipped"]
    assert misread_rows(MORE[name]) == 0


def test_tokens_that_a_tower_embeds_are_no_text() -> None:
    """Gemma3n's end of an image is behind its vision tower's offset. (The kit's reload needs timm.)"""
    family = MORE["Gemma3nForConditionalGeneration"]
    check_adapter(family.build, family.batch)
    assert misread_rows(family) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ChameleonForConditionalGeneration", "merges images inside its decoder ChameleonModel"),
        ("DiffusionGemmaForBlockDiffusion", "but answers with DiffusionGemmaDecoderModel"),
    ],
)
def test_other_decoders_are_refused(name: str, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        attach(MORE[name].build())
