"""Hosts that are on no package index: their own code, from checkouts, against the layout that a loop computes.

``LLAVA_VISTA_CHECKOUTS=DIR`` names a folder with clones: ross (Haochen-Wang409), cambrian (cambrian-mllm), InternVL
(OpenGVLab), VideoLLaMA3 (DAMO-NLP-SG), LLaVA-Mini (ictnlp). What is missing is skipped. Packages that they import and
do not use here are placeholders (scripts/hosts/scratch_site.py).
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
import transformers
from torch import Tensor, nn

from llava_vista import LayoutError, UnsupportedModelError, VistaConfig, attach
from llava_vista.adapters import find_adapter
from llava_vista.testing import check_adapter
from llava_vista.testing.case import Case

pytestmark = pytest.mark.environments("llava", "older")

CHECKOUTS = os.environ.get("LLAVA_VISTA_CHECKOUTS")
IGNORE, VOCABULARY, CONTEXT, LENGTH, WIDTH = -100, 64, 60, 24, 32
#: Images of each row.
IMAGES = (1, 0, 2)
PLACEHOLDERS = (
    "bitsandbytes", "cv2", "decord", "diffusers", "ezcolorlog", "ffmpeg", "imageio", "open_clip", "timm", "torchdiffeq",
    "torchvision",
)  # fmt: skip
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512, "use_cache": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def placeholders() -> Iterator[None]:
    """Stand-ins for missing packages, and the checkouts on the path."""
    scripts = Path(__file__).parents[2] / "scripts" / "hosts"
    path, finders, modules = list(sys.path), list(sys.meta_path), set(sys.modules)
    sys.path.insert(0, str(scripts))
    from scratch_site import _Placeholders

    sys.meta_path.insert(0, _Placeholders([name for name in PLACEHOLDERS if importlib.util.find_spec(name) is None]))
    yield
    sys.path[:], sys.meta_path[:] = path, finders
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in (
            "ross",
            "cambrian",
            "internvl",
            "videollama3",
            "llavamini",
            "scratch_site",
            *PLACEHOLDERS,
        ):
            del sys.modules[name]


def text_rows(counts: tuple[int, ...], image: list[int]) -> dict[str, Tensor]:
    """Ragged rows of text; each image is the ids ``image`` in it."""
    rows = []
    for number, count in enumerate(counts):
        row = torch.randint(3, CONTEXT - 2, (LENGTH - 3 * number,)).tolist()
        for at in range(count):
            row[2 + 3 * at : 2 + 3 * at] = image
        rows.append(torch.tensor(row))
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).bool()
    labels = torch.where(mask & (ids >= 3) & (ids < CONTEXT), ids, IGNORE)
    labels[:, :8] = IGNORE
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Host(NamedTuple):
    """A repository: its clone, versions of transformers that its code runs with, a tiny model, a batch, and its rows.

    expected: for a row of ids, one entry per merged position: the token id, or None for an image row.
    """

    clone: str
    source: str
    versions: tuple[str, str]
    build: Callable[[str], nn.Module]
    batch: Callable[[], dict[str, Any]]
    expected: Callable[[list[int]], list[int | None]]
    adapter: str = "generic"


def expanded(rows_per_image: int, image: int) -> Callable[[list[int]], list[int | None]]:
    def rows(ids: list[int]) -> list[int | None]:
        found: list[int | None] = []
        for token in ids:
            found += [None] * rows_per_image if token == image else [token]
        return found

    return rows


# --- Ross: nine values ---


def build_ross(tower: str) -> nn.Module:
    ross = importlib.import_module("ross.model.language_model.ross_qwen")
    config = ross.RossConfig(
        **SIZES, mm_vision_tower=tower, mm_hidden_size=16, mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-2
    )
    return ross.RossQwen2ForCausalLM(config)


def ross_batch() -> dict[str, Any]:
    # A row without an image has a dummy.
    return {**text_rows(IMAGES, [-200]), "images": torch.randn(sum(max(1, count) for count in IMAGES), 3, 16, 16)}


# --- Cambrian: ten values, rows of a newline embedding; its path without XLA ---


def build_cambrian(tower: str, vision_width: int = 16) -> nn.Module:
    cambrian = importlib.import_module("cambrian.model.language_model.cambrian_llama")
    named = Path(tower).parent / "openai" / "clip"  # it reads the kind from the name
    named.parent.mkdir(exist_ok=True)
    if not named.exists():
        named.symlink_to(tower)
    config = cambrian.CambrianConfig(
        **SIZES, mm_vision_tower_aux_list=[str(named)], mm_vision_tower_aux_token_len_list=[16], image_token_len=16,
        mm_projector_type="sva", mm_vision_select_layer=-2, vision_hidden_size=vision_width, num_query_group=1,
        query_num_list=[16], connector_only=True, connector_depth=1, mm_hidden_size=16,
    )  # fmt: skip
    model = cambrian.CambrianLlamaForCausalLM(config)
    model.model.image_newline.data.normal_()  # made by torch.empty
    for one in model.get_vision_tower_aux_list():
        one.load_model()
    return model


def cambrian_batch() -> dict[str, Any]:
    number = sum(max(1, count) for count in IMAGES)
    images = torch.randn(number, 3, 16, 16)
    # 4 by 4 patches of a square image, of which this one fills 2 lines; a newline behind each
    return {**text_rows(IMAGES, [-200]), "images": [images], "image_sizes": [(16, 8)] * number}


# --- InternVL chat: one placeholder a row, whose id is on the model ---


def build_internvl(tower: str) -> nn.Module:
    chat = importlib.import_module("internvl.model.internvl_chat")
    vision = {
        "architectures": ["InternVisionModel"], "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32,
        "num_hidden_layers": 2, "image_size": 16, "patch_size": 4, "use_flash_attn": False,
    }  # fmt: skip
    config = chat.InternVLChatConfig(
        vision_config=vision, llm_config={"architectures": ["Qwen2ForCausalLM"], **SIZES}, template="internvl2_5",
        force_image_size=16, ps_version="v2",
    )  # fmt: skip
    model = chat.InternVLChatModel(config)
    model.img_context_token_id = CONTEXT
    return model


def internvl_batch() -> dict[str, Any]:
    # Four rows an image. A row without an image has a dummy, flagged 0.
    flags = torch.cat([torch.ones(count, 1) if count else torch.zeros(1, 1) for count in IMAGES]).long()
    return {
        **text_rows(IMAGES, [CONTEXT] * 4), "pixel_values": torch.randn(len(flags), 3, 16, 16), "image_flags": flags,
    }  # fmt: skip


# --- VideoLLaMA3: placeholders replaced in place inside the merge, values in another order ---


def build_videollama3(tower: str) -> nn.Module:
    # Its __init__ imports the processor, which needs a later transformers than its model.
    package = ModuleType("videollama3")
    package.__path__ = [str(Path(path, "videollama3")) for path in sys.path]
    sys.modules.setdefault("videollama3", package)
    encoder = importlib.import_module("videollama3.model.videollama3_encoder")
    model = importlib.import_module("videollama3.model.videollama3_qwen2")
    named = Path(tower).parent / "navit"
    if not named.exists():
        torch.manual_seed(0)
        vision = encoder.Videollama3VisionEncoderConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=4
        )
        vision._attn_implementation = "sdpa"
        encoder.Videollama3VisionEncoderModel(vision).save_pretrained(named)
        encoder.Videollama3ImageProcessor(patch_size=4).save_pretrained(named)
    config = model.Videollama3Qwen2Config(
        **SIZES, vision_encoder=str(named), mm_projector_type="mlp2x_gelu", mm_attn_implementation="sdpa",
        image_token_index=CONTEXT, use_token_compression=False,
    )  # fmt: skip
    return model.Videollama3Qwen2ForCausalLM(config)


def videollama3_batch() -> dict[str, Any]:
    # 4 by 4 patches of 4 by 4 pixels, merged by twos to 4 rows. A row without an image has a dummy.
    modals = [modal for count in IMAGES for modal in ["image"] * count or ["text"]]
    return {
        **text_rows(IMAGES, [CONTEXT] * 4), "pixel_values": torch.randn(16 * len(modals), 48), "modals": modals,
        "grid_sizes": torch.tensor([[1, 4, 4]] * len(modals)), "merge_sizes": torch.tensor([2] * len(modals)),
    }  # fmt: skip


HOSTS = {
    "ross": Host("ross", "", ("4.42", "4.48"), build_ross, ross_batch, expanded(16, -200)),
    "cambrian": Host("cambrian", "", ("4.37", "4.40"), build_cambrian, cambrian_batch, expanded(10, -200)),
    "internvl": Host(
        "InternVL", "internvl_chat", ("4.37", "4.48"), build_internvl, internvl_batch, expanded(1, CONTEXT),
        "internvl-chat",
    ),
    "videollama3": Host(
        "VideoLLaMA3", "", ("4.42", "4.48"), build_videollama3, videollama3_batch, expanded(1, CONTEXT)
    ),
}  # fmt: skip


def find_clone(clone: str, source: str, versions: tuple[str, str]) -> None:
    """Put a clone on the path; skip where it cannot be run."""
    low, high = (tuple(map(int, version.split("."))) for version in versions)
    if not low <= tuple(map(int, transformers.__version__.split(".")[:2])) < high:
        pytest.skip(f"{clone} needs transformers from {versions[0]} and below {versions[1]}")
    if CHECKOUTS is None or not (Path(CHECKOUTS) / clone).is_dir():
        pytest.skip(f"LLAVA_VISTA_CHECKOUTS={CHECKOUTS} has no clone {clone}")
    sys.path.insert(0, str(Path(CHECKOUTS) / clone / source))


def need(name: str) -> Host:
    """Return a host whose clone is on the path; skip where it cannot be run."""
    host = HOSTS[name]
    find_clone(host.clone, host.source, host.versions)
    return host


@pytest.mark.parametrize("name", HOSTS)
def test_layout_of_a_loop(name: str, tower_path: str) -> None:
    host = need(name)
    seen = Case(lambda: host.build(tower_path), host.batch).see()
    for row, (ids, keep) in enumerate(zip(seen.input_ids.tolist(), seen.mask.tolist(), strict=True)):
        wanted = host.expected([token for token, attended in zip(ids, keep, strict=True) if attended])
        text = [at for at, token in enumerate(wanted) if token is not None]
        assert seen.layout.text[row].nonzero().flatten().tolist() == text
        assert seen.layout.image[row].nonzero().flatten().tolist() == [
            at for at, token in enumerate(wanted) if token is None
        ]
        assert seen.token_ids[row, text].tolist() == [token for token in wanted if token is not None]


@pytest.mark.parametrize("name", HOSTS)
def test_conformance(name: str, tower_path: str) -> None:
    host = need(name)
    assert find_adapter(host.build(tower_path)).adapter.name == host.adapter
    check_adapter(lambda: host.build(tower_path), host.batch)


def test_videollama3_flattened_by_its_collator(tower_path: str) -> None:
    """Samples in one row, told apart by positions and without a mask: each has its own last image."""
    host = need("videollama3")
    batch = videollama3_batch()
    keep = batch.pop("attention_mask")
    flat = {
        name: torch.cat([row[on] for row, on in zip(batch[name], keep, strict=True)])[None]
        for name in ("input_ids", "labels")
    }
    flat["position_ids"] = torch.cat([torch.arange(int(on.sum())) for on in keep])[None]
    model = host.build(tower_path).train()
    handle = attach(model, VistaConfig(), add_to_loss=False)
    seen: dict[str, Tensor] = {}

    def see(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        seen.update(embeds=kwargs["inputs_embeds"][0], hidden=output[0][0])

    model.model.register_forward_hook(see, with_kwargs=True)
    model(**{**batch, **flat})
    terms = []
    ids, start = flat["input_ids"][0], 0
    for length in keep.sum(dim=1).tolist():
        at = torch.arange(start, start + length)
        text, image = at[ids[at] != CONTEXT], at[ids[at] == CONTEXT]
        if len(image):
            distance = (seen["embeds"][text] - seen["hidden"][image[-1]]).pow(2).mean(dim=1)
            terms.append((distance * torch.arange(1, len(text) + 1) / len(text)).mean())
        start += length
    torch.testing.assert_close(handle.loss(), torch.stack(terms).mean())
    assert handle.metrics()["vista_aligned_samples"] == len(terms) == 2


def test_llava_mini_is_refused(tower_path: str) -> None:
    """It fuses the image into text tokens that its labels choose: no embedding there is a token's own."""
    find_clone("LLaVA-Mini", "", ("4.42", "4.48"))
    mini = importlib.import_module("llavamini.model.language_model.llavamini_llama")
    tower = Path(tower_path).parent / "wide"  # its compressor has this width
    vision = transformers.CLIPVisionConfig(
        hidden_size=1024, intermediate_size=32, num_hidden_layers=2, num_attention_heads=8, image_size=16, patch_size=4
    )
    transformers.CLIPVisionModel(vision).save_pretrained(tower)
    transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tower)
    config = mini.LlavaMiniConfig(
        **SIZES, mm_vision_tower=str(tower), mm_hidden_size=1024, mm_projector_type="mlp2x_gelu",
        mm_vision_select_layer=-2, compressor_size=2, prefusion_layer_num=1, attn_implementation="eager",
    )  # fmt: skip
    model = mini.LlavaMiniLlamaForCausalLM(config).train()
    model.get_vision_tower().load_model()
    batch = {**text_rows((1, 1), [-200]), "images": torch.randn(2, 1, 3, 16, 16)}
    plain = model(**batch).loss
    handle = attach(model)
    with pytest.raises(LayoutError, match="It reads the values of labels"):
        model(**batch)
    handle.detach()
    assert torch.equal(model(**batch).loss, plain)


def test_internvl_without_its_id_is_refused(tower_path: str) -> None:
    model = need("internvl").build(tower_path)
    model.img_context_token_id = None
    with pytest.raises(UnsupportedModelError, match="img_context_token_id is None"):
        attach(model)
