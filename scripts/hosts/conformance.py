"""The conformance kit on a host's own model classes, as many as can be made here.

Run by train.py in the host's environment: ``python conformance.py NAME PARTS.json``. One line per class.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from table import HOSTS, Host

from llava_vista.adapters import Adapter, all_adapters, find_adapter
from llava_vista.testing import ConformanceError, check_adapter

IMAGE_TOKEN, IGNORE, VOCABULARY, LENGTH = -200, -100, 64, 20
# Four rows: MoE-LLaVA tells a layer's experts by len() == 3, which a batch of three has too.
IMAGES_PER_ROW = (1, 0, 2, 1)
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "use_cache": False,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "num_local_experts": 2}
#: What single classes want besides, by a part of their name.
SETTINGS: dict[str, dict[str, Any]] = {
    "Mixtral": EXPERTS,
    "QwenMoe": EXPERTS,
    "QWen": {"seq_length": 512, "kv_channels": 32},
    # its output layer reads the hidden state divided by hidden_size / dim_model_base
    "MiniCPM": {"dim_model_base": 64},
}
MOE_ARGUMENTS = {
    "moe_enable": True,
    "train_modules": None,
    "moe_mode": "sparse",
    "moe_layers_idx": None,
    "ep_size": 1,
    "num_experts": [2],
    "top_k_experts": 2,
    "capacity_factor": 1.5,
    "eval_capacity_factor": 2.0,
    "min_capacity": 0,
    "use_residual": False,
    "router_aux_loss_coef": 0.01,
}
#: `from_pretrained` leaves the vision tower to the host's own loader.
SKIPPED = {"save_and_load": "the host loads its tower itself"}
REPORT = "@conformance "
Batch = dict[str, Any]


def tell(words: str) -> None:
    """For the report: what the host itself prints does not begin so."""
    print(f"{REPORT}{words}")


def image_size(tower: str) -> int:
    with open(f"{tower}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    return int(config.get("vision_config", config)["image_size"])


def batch(size: int) -> Batch:
    """Rows with one image, none, two and one, of different lengths; a text-only row carries a dummy image."""
    rows = len(IMAGES_PER_ROW)
    ids = torch.randint(3, VOCABULARY, (rows, LENGTH))
    mask = torch.ones_like(ids, dtype=torch.bool)
    labels = ids.clone()
    for row, count in enumerate(IMAGES_PER_ROW):
        mask[row, LENGTH - 2 * row :] = False
        ids[row, 1 : 1 + 2 * count : 2] = IMAGE_TOKEN
        labels[row, : 1 + 2 * count + 3] = IGNORE
    labels[~mask] = IGNORE
    number = sum(max(1, count) for count in IMAGES_PER_ROW)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": labels,
        "images": torch.randn(number, 3, size, size),
    }


def vision_settings(package: str, tower: str) -> dict[str, Any]:
    if package in ("moellava", "videollava"):
        return {
            "mm_image_tower": tower,
            "mm_video_tower": None,
            "image_tower": tower,
            "image_projector_type": "mlp2x_gelu",
            "mm_hidden_size": 32,
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_layer": -2,
        }
    return {
        "mm_vision_tower": tower,
        "mm_hidden_size": 32,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "pad",
        "mm_patch_merge_type": "flat",
        "vision_tower_type": "clip",  # MobileVLM
    }


def build_llava_like(cls: Any, package: str, tower: str) -> torch.nn.Module:
    """For every host whose configuration is the language model's with a few keys more."""
    more = {key: value for part, found in SETTINGS.items() if part in cls.__name__ for key, value in found.items()}
    config = cls.config_class(**SIZES, **more, **vision_settings(package, tower))
    config.mm_hidden_size = 32
    model = cls(config)
    found = getattr(model, "get_vision_tower", None) or model.get_image_tower
    found().load_model()
    if hasattr(model, "initialize_moe_modules"):
        add_experts(model)
    return model.float()


def add_experts(model: Any) -> None:
    """MoE-LLaVA's own way; DeepSpeed's experts want a process group, of one rank here."""
    import deepspeed
    from deepspeed.moe.layer import MoE

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed("gloo", verbose=False)
    with contextlib.redirect_stdout(None):
        model.initialize_moe_modules(SimpleNamespace(**MOE_ARGUMENTS))
    for module in model.modules():
        if isinstance(module, MoE):
            module.set_deepspeed_parallelism()


def build_tinyllava(cls: Any, paths: dict[str, str]) -> torch.nn.Module:
    config = importlib.import_module("tinyllava.model").TinyLlavaConfig()
    wanted = {"model_name_or_path": paths["llm"], "vision_tower": paths["tower"], "connector_type": "mlp2x_gelu"}
    config.load_from_config(SimpleNamespace(**wanted))
    return cls(config)


def build_vila(cls: Any, paths: dict[str, str]) -> torch.nn.Module:
    config = cls.config_class.from_pretrained(paths["llm"], resume=False)
    config.llm_cfg, config.vision_tower_cfg, config.mm_projector_cfg = paths["llm"], paths["tower"], "mlp2x_gelu"
    config.model_dtype, config.mm_vision_select_layer, config.mm_vision_select_feature = "torch.float32", -2, "patch"
    config.chat_template = "qwen2"
    for name in ("image_encoder", "video_encoder"):
        kind = name.partition("_")[0].capitalize()
        setattr(config, name, {"_target_": f"llava.model.encoders.Basic{kind}Encoder"})
    return cls(config=config, model_max_length=2048).float()


def vila_batch(size: int, token: int) -> Batch:
    """Its media tokens are ids of its tokenizer, and a text-only row carries no image. Not packed: one sample a row."""
    inputs = batch(size)
    inputs["input_ids"][inputs["input_ids"] == IMAGE_TOKEN] = token
    images = inputs.pop("images")[: sum(IMAGES_PER_ROW)]
    return {**inputs, "media": {"image": list(images)}, "packing": False}


def classes_of(host: Host) -> list[Any]:
    """The classes that adapters or the table name and that this host has; what fails is told.

    Several hosts share a package name, and some their class names.
    """
    methods = {qualified: adapter.merge_method for adapter in all_adapters() for qualified in adapter.classes}
    found = []
    for qualified in (*methods, *host.classes):
        module, _, name = qualified.rpartition(".")
        if module.partition(".")[0] != host.package or importlib.util.find_spec(module) is None:
            continue
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except (ImportError, AttributeError, ValueError, RuntimeError) as error:
            tell(f"{name}: not importable here ({error})")
            continue
        if callable(getattr(cls, methods.get(qualified, Adapter.merge_method), None)):
            found.append(cls)
    return found


def builder(cls: Any, package: str, paths: dict[str, str]) -> Callable[[], torch.nn.Module]:
    if package == "tinyllava":
        return lambda: build_tinyllava(cls, paths)
    if "media" in inspect.signature(cls.forward).parameters:
        return lambda: build_vila(cls, paths)
    tower = paths["relative_tower"] if package == "moellava" else paths["tower"]
    return lambda: build_llava_like(cls, package, tower)


def batch_maker(cls: Any, model: Any, size: int) -> Callable[[], Batch]:
    takes = inspect.signature(cls.forward).parameters
    if "media" in takes:
        return lambda: vila_batch(size, model.tokenizer.media_token_ids["image"])
    more = {"modalities": ["image"] * len(IMAGES_PER_ROW)} if "modalities" in takes else {}
    return lambda: {**batch(size), **more}


def step(model: Any, inputs: Batch) -> dict[str, torch.Tensor]:
    """Gradients of one plain step."""
    torch.manual_seed(2)
    output = model(**inputs)
    (output[0] if isinstance(output, tuple) else output.loss).backward()
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def checkpointing_changes_gradients(build: Callable[[], Any], make_batch: Callable[[], Batch]) -> bool:
    found = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = build().train()
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": True})
            model.enable_input_require_grads()
        torch.manual_seed(1)
        found.append(step(model, make_batch()))
    plain, other = found
    largest = max(float(value.abs().max()) for value in plain.values())
    return any(float((value - plain[name]).abs().max()) > 1e-5 * largest for name, value in other.items())


def what_the_host_cannot(build: Callable[[], Any], make_batch: Callable[[], Batch]) -> dict[str, str]:
    """Checks that cannot pass without VISTA already, with the host's own error."""
    found = {}
    try:
        with torch.no_grad():
            build().eval()(**make_batch())
    except Exception as error:  # noqa: BLE001
        found["evaluation"] = f"a loss in evaluation mode fails without VISTA already, {type(error).__name__}: {error}"
    try:
        if checkpointing_changes_gradients(build, make_batch):
            found["gradient_checkpointing"] = "reentrant checkpointing changes the gradients without VISTA already"
    except TypeError:
        found["gradient_checkpointing"] = "this version of transformers takes no options for it"
    except ValueError as error:
        found["gradient_checkpointing"] = str(error)
    try:
        copy.deepcopy(build())
    except TypeError as error:
        found["deep_copy"] = f"the host's model cannot be copied: {error}"
    return found


def main() -> int:
    name, parts = sys.argv[1:]
    with open(parts, encoding="utf-8") as file:
        paths = json.load(file)
    host, passed, failed = HOSTS[name], 0, 0
    size = image_size(paths["tower"])
    for cls in classes_of(host):
        build = builder(cls, host.package, paths)
        try:
            torch.manual_seed(0)
            model = build()
        except Exception as error:  # noqa: BLE001  (whatever a host raises: it is the host's, and is shown)
            tell(f"{cls.__name__}: cannot be made here: {type(error).__name__}: {str(error)[:200]}")
            continue
        make_batch = batch_maker(cls, model, size)
        try:
            torch.manual_seed(2)
            output = model.train()(**make_batch())
            (output[0] if isinstance(output, tuple) else output.loss).backward()
        except Exception as error:  # noqa: BLE001
            tell(f"{cls.__name__}: fails without VISTA already: {type(error).__name__}: {str(error)[:200]}")
            continue
        adapter = find_adapter(model).adapter.name
        skip = {**SKIPPED, **what_the_host_cannot(build, make_batch)}
        try:
            outcomes = check_adapter(build, make_batch, skip=skip)
        except ConformanceError as error:
            failed += 1
            tell(f"{cls.__name__} (adapter {adapter}): {error}")
            continue
        passed += 1
        skipped = [
            f"{outcome.check}: {skip.get(outcome.check, outcome.words)}"
            for outcome in outcomes
            if outcome.result == "skipped"
        ]
        number = sum(one.result == "ok" for one in outcomes)
        tell(f"{cls.__name__} (adapter {adapter}): {number} checks passed; not asked: {'; '.join(skipped)}")
    if not passed:
        tell("no class of this host ran the kit")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
