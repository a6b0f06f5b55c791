"""The data sheet of a model family, the registry of data sheets, and the search for a model's."""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any, ClassVar, NamedTuple

from torch import nn

from ..errors import RegistryError, UnsupportedModelError
from ..logging import warn_once
from ..registry import Registry

ENTRY_POINT_GROUP = "llava_vista.adapters"
#: The arguments of a merge method that tell the layout.
MERGE_ARGUMENTS = ("input_ids", "attention_mask", "labels")
#: Names of modalities in the configurations and constants of hosts; images and videos are visual.
VISUAL = ("image", "video")
OTHER = ("audio", "speech", "sound", "music", "point", "point_cloud", "region", "bbox", "time_series")
#: The placeholder of an image in LLaVA and its relatives.
LLAVA_IMAGE = -200


class Adapter:
    """The data sheet of one model family: how to recognise it, where its decoder is, how images get into the text.

    Subclass it, set the class attributes, and decorate it with `register_adapter` (README.md in this folder). Names are
    whole qualified class names along the MRO ("package.module.Class"), so that nothing of the host is imported and a
    class that merely looks similar does not match.

    Images get into the text in one of two ways. Either a method of the model replaces each placeholder by many rows
    ("merging", `merge_method`), or the processor has put one placeholder token per image row into ``input_ids``
    (`placeholder_ids`). A family may do one or the other, by its version.
    """

    #: Set by `register_adapter`.
    name: ClassVar[str] = ""
    #: Qualified names of the classes of this family; their subclasses are recognised too.
    classes: ClassVar[tuple[str, ...]] = ()
    #: Used only for models that no other adapter recognises; their first batch is checked (`first_batch_check`).
    fallback: ClassVar[bool] = False
    #: The method that replaces image placeholders by image features. It takes arguments named as `MERGE_ARGUMENTS`.
    merge_method: ClassVar[str] = "prepare_inputs_labels_for_multimodal"
    #: What the merge method returns, by the number of values. "inputs_embeds", "attention_mask" and "labels" are also
    #: found by comparing the first merge with a plain one; names decide where several values would fit.
    merge_returns: ClassVar[dict[int, tuple[str, ...]]] = {
        6: ("input_ids", "position_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels"),
        5: ("input_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels"),
    }
    #: The host concatenates several merged samples into one row before the decoder (`attach.packing`).
    packs_rows: ClassVar[bool] = False

    def matches(self, module: nn.Module) -> bool:
        """Return whether ``module`` is a model of this family: the one that owns the merge method."""
        return any(f"{cls.__module__}.{cls.__qualname__}" in self.classes for cls in type(module).__mro__)

    def merges(self, model: nn.Module) -> bool:
        """Return whether this version of the model has the merge method. A wrapper that forwards attributes has not."""
        return callable(getattr(type(model), self.merge_method, None))

    def image_ids(self, model: nn.Module) -> tuple[int, ...]:
        """Return the ids that the merge method replaces by image or video rows."""
        return _host_placeholders(model)[0]

    def other_ids(self, model: nn.Module) -> tuple[int, ...]:
        """Return the ids that stand for rows of another modality (audio, regions), which are neither text nor image."""
        return _host_placeholders(model)[1]

    def placeholder_ids(self, model: nn.Module) -> tuple[int, ...]:
        """Return the ids of tokens that are one image row each in ``input_ids``; empty for families that merge."""
        return ()

    def decoder(self, model: nn.Module) -> nn.Module:
        """Return the decoder stack: it takes ``inputs_embeds`` and returns the hidden state after its final norm."""
        return embedding_parent(model)


class Found(NamedTuple):
    """An adapter, and the module inside the given model that it recognised (the model itself, or what PEFT wraps)."""

    adapter: Adapter
    module: nn.Module


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", builtin="llava_vista.adapters")
#: entry point -> why it could not be loaded; None until they were loaded
_broken_entry_points: dict[str, str] | None = None


def register_adapter(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Class decorator: make the adapter known as ``name``.

    Raises:
        RegistryError: the name is taken, or the sheet has a typing error.
    """

    def register(cls: type[Adapter]) -> type[Adapter]:
        _check_sheet(name, cls)
        cls.name = name
        ADAPTERS.add(name, cls)
        return cls

    return register


def _check_sheet(name: str, cls: type[Adapter]) -> None:
    """Find typing errors, which would make a sheet silently match nothing, or too much.

    Raises:
        RegistryError: names the attribute.
    """
    known = [key for key in vars(Adapter) if not key.startswith("_")]
    for key in vars(cls):
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
        if not key.startswith("_") and key not in known and close:
            raise RegistryError(f"adapter {name}: {cls.__name__}.{key} means nothing. Did you mean {close[0]}?")
    if isinstance(cls.classes, str) or not all(isinstance(one, str) and "." in one for one in cls.classes):
        raise RegistryError(
            f"adapter {name}: classes is {cls.classes!r}; a tuple of qualified names was expected, as in "
            "classes = ('package.module.Class',)."
        )
    for count, names in cls.merge_returns.items():
        if count != len(names) or isinstance(names, str) or not {"inputs_embeds", "labels"} <= set(names):
            raise RegistryError(
                f"adapter {name}: merge_returns[{count!r}] is {names!r}; {count} names were expected, 'inputs_embeds' "
                "and 'labels' among them."
            )


def all_adapters() -> list[Adapter]:
    """Return one instance of every adapter: those shipped, those registered, those of installed packages.

    An entry point that cannot be loaded is reported once and left out: it need not concern this run.
    """
    global _broken_entry_points
    if _broken_entry_points is None:
        _broken_entry_points = {}
        for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
            try:
                entry.load()  # importing the module registers the adapter
            except Exception as error:  # noqa: BLE001  (another package's code may raise anything)
                _broken_entry_points[entry.name] = f"{entry.value}: {error!r}"
                warn_once(
                    f"the adapter {entry.name} ({entry.value}) of an installed package could not be loaded and is left "
                    f"out: {error!r}. Update or uninstall that package."
                )
    return [cls() for cls in ADAPTERS]


def embedding_parent(model: nn.Module) -> nn.Module:
    """Return the decoder stack: the innermost module that holds the input embedding and a list of layers.

    Where there is no list of layers, it is the module that owns the embedding.

    Raises:
        UnsupportedModelError: the model has no input embedding, or nothing owns it.
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    name = next((name for name, module in model.named_modules() if module is embedding and name), None)
    if name is None:
        raise UnsupportedModelError(
            f"{type(model).__name__}: no module owns the input embedding {type(embedding).__name__}; the adapter "
            "should say which module is the decoder (override Adapter.decoder)."
        )
    owners = [model]
    for part in name.split(".")[:-1]:
        owners.append(getattr(owners[-1], part))
    stacks = (one for one in owners[::-1] if any(isinstance(part, nn.ModuleList) for part in one.modules()))
    return next(stacks, owners[-1])


def config_placeholder_ids(model: nn.Module) -> tuple[int, ...]:
    """Return the image and video token ids of a transformers configuration."""
    return _config_ids(model, VISUAL)


def _config_ids(model: nn.Module, kinds: tuple[str, ...]) -> tuple[int, ...]:
    config = getattr(model, "config", None)
    ids = [getattr(config, f"{kind}_token_{suffix}", None) for kind in kinds for suffix in ("id", "index")]
    return tuple(dict.fromkeys(token for token in ids if isinstance(token, int)))


def _host_placeholders(model: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the placeholder ids of images and of other modalities, as the host's constants and configuration say.

    LLaVA's relatives have them in ``constants`` of their package: IMAGE_TOKEN_INDEX, AUDIO_TOKEN_INDEX, or a table of
    such (MODAL_INDEX_MAP). Without any, LLaVA's -200 is the image.
    """
    found: dict[str, int] = {}
    for cls in type(model).__mro__:
        constants = sys.modules.get(f"{cls.__module__.split('.')[0]}.constants")
        for name, value in vars(constants).items() if constants is not None else ():
            if name.endswith("TOKEN_INDEX") and isinstance(value, int):
                found[name] = value
            elif "INDEX" in name and isinstance(value, dict):
                found |= {str(key): token for key, token in value.items() if isinstance(token, int) and token < 0}
    visual = [token for name, token in found.items() if any(kind in name.lower() for kind in VISUAL)]
    image = dict.fromkeys(
        [*visual, *_config_ids(model, VISUAL)] if visual else [LLAVA_IMAGE, *_config_ids(model, VISUAL)]
    )
    other = dict.fromkeys([*found.values(), *_config_ids(model, OTHER)])
    return tuple(image), tuple(token for token in other if token not in image)


def find_adapter(model: nn.Module) -> Found:
    """Find the adapter for a model, also inside wrappers such as PEFT's. Linear in the number of modules.

    Raises:
        UnsupportedModelError: no adapter recognises it (lists the known ones), several do (names them), or it is an
            encoder-decoder.
    """
    adapters = all_adapters()
    found = _claims(model, [adapter for adapter in adapters if not adapter.fallback]) or _claims(
        model, [adapter for adapter in adapters if adapter.fallback]
    )
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds several models that VISTA could act on: "
            f"{', '.join(type(item.module).__name__ for item in found)}. Attach to the one that is trained."
        )
    if not found:
        _refuse_other_sequences(model)
        bases = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__[:3]]
        broken = "".join(f" Not loaded: {name} ({why})." for name, why in (_broken_entry_points or {}).items())
        raise UnsupportedModelError(
            f"no adapter recognises {' < '.join(bases)}. Known adapters: {', '.join(item.name for item in adapters)}."
            f"{broken} A model of another family needs register_adapter; a text-only language model has no image to "
            "align."
        )
    _refuse_other_sequences(found[0].module)
    _refuse_other_decoders(*found[0])
    return found[0]


def other_sequence(config: Any) -> str:
    """Return why a model's decoder has no image rows in its sequence, as its configuration says; "" if it may have.

    Args:
        config: the configuration, or what stands in a checkpoint's config.json.
    """

    def says(one: Any, name: str) -> bool:
        return bool(one.get(name) if isinstance(one, dict) else getattr(one, name, None))

    text = config.get("text_config") if isinstance(config, dict) else getattr(config, "text_config", None)
    if any(says(one, "is_encoder_decoder") for one in (config, text)):
        return "is an encoder-decoder: images and answer are in different sequences"
    if any(says(one, "cross_attention_layers") for one in (config, text)):
        return "attends to images by cross attention: no position of its sequence is an image"
    return ""


def _refuse_other_sequences(model: nn.Module) -> None:
    """Refuse models whose decoder has no image rows in its sequence, known or not.

    Raises:
        UnsupportedModelError: see `other_sequence`.
    """
    if reason := other_sequence(getattr(model, "config", None)):
        raise UnsupportedModelError(
            f"{type(model).__name__} {reason}, and VISTA needs both in the decoder's. Train it without VISTA."
        )


def _refuse_other_decoders(adapter: Adapter, model: nn.Module) -> None:
    """Refuse models without a merge method whose decoder is not the module that receives the merged embeddings.

    Raises:
        UnsupportedModelError: the answer has ids and a decoder of its own (DiffusionGemma), or the decoder merges by
            itself (Chameleon).
    """
    if adapter.merges(model):
        return
    decoder = adapter.decoder(model)
    two_inputs = any(name.startswith("decoder_input") for name in inspect.signature(type(model).forward).parameters)
    own = model.get_decoder() if two_inputs and hasattr(model, "get_decoder") else decoder  # type: ignore[operator]
    if all(module is not decoder for module in own.modules()):
        reason = f"embeds text and images for {type(decoder).__name__}, but answers with {type(own).__name__}"
    elif "pixel_values" in inspect.signature(decoder.forward).parameters:
        reason = f"merges images inside its decoder {type(decoder).__name__}, which gets no merged embeddings"
    else:
        return
    raise UnsupportedModelError(
        f"{type(model).__name__} {reason}; VISTA needs both in one decoder's input. Train it without VISTA."
    )


def _claims(model: nn.Module, adapters: list[Adapter]) -> list[Found]:
    """Return the outermost modules that one of the adapters recognises.

    Raises:
        UnsupportedModelError: two adapters recognise one module.
    """
    found: list[Found] = []
    inside: set[int] = set()
    # Most modules of a large model share a few classes; only an adapter with a rule of its own looks at instances.
    by_class: dict[type, list[Adapter]] = {}
    by_rule = [adapter for adapter in adapters if type(adapter).matches is not Adapter.matches]
    by_name = [adapter for adapter in adapters if type(adapter).matches is Adapter.matches]
    for module in model.modules():
        if id(module) in inside:
            continue
        cls = type(module)
        if cls not in by_class:
            by_class[cls] = [adapter for adapter in by_name if adapter.matches(module)]
        claims = by_class[cls] + [adapter for adapter in by_rule if adapter.matches(module)]
        if len(claims) > 1:
            raise UnsupportedModelError(
                f"{cls.__name__} is claimed by several adapters: "
                f"{', '.join(f'{claim.name} ({type(claim).__module__})' for claim in claims)}. "
                "Uninstall one of them, or make its `classes` more specific."
            )
        if claims:
            found.append(Found(claims[0], module))
            inside.update(id(inner) for inner in module.modules())
    return found
