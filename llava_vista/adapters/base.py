"""What an adapter says about a model family, the registry of adapters, and how one is found for a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from typing import ClassVar, NamedTuple

from torch import nn

from ..errors import UnsupportedModelError
from ..registry import Registry

ENTRY_POINT_GROUP = "llava_vista.adapters"


class Adapter:
    """The data sheet of one model family that merges images into text in a method of the model.

    Subclass it, fill in the class attributes, and decorate it with `register_adapter`. Names are compared with whole
    qualified class names along the MRO ("package.module.Class"), so that nothing of the host needs to be imported and
    a class that merely looks similar is not taken.
    """

    #: Set by `register_adapter`.
    name: ClassVar[str] = ""
    #: Qualified names of the classes of this family; their subclasses are recognised too.
    classes: ClassVar[tuple[str, ...]] = ()
    #: The method that replaces image placeholders by image features.
    merge_method: ClassVar[str] = "prepare_inputs_labels_for_multimodal"
    #: What the merge method returns, by the number of values. Has "inputs_embeds", "attention_mask" and "labels".
    merge_returns: ClassVar[dict[int, tuple[str, ...]]] = {
        6: ("input_ids", "position_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels"),
        5: ("input_ids", "attention_mask", "past_key_values", "inputs_embeds", "labels"),
    }

    def matches(self, module: nn.Module) -> bool:
        """Whether ``module`` is the model that owns the merge method."""
        return any(f"{cls.__module__}.{cls.__qualname__}" in self.classes for cls in type(module).__mro__)

    def decoder(self, model: nn.Module) -> nn.Module:
        """The decoder stack: takes ``inputs_embeds``, returns the hidden state after its final norm."""
        return embedding_parent(model)


class Found(NamedTuple):
    """An adapter, and the module inside the given model that it recognised (the model itself, or what PEFT wraps)."""

    adapter: Adapter
    module: nn.Module


ADAPTERS: Registry[type[Adapter]] = Registry("adapter", builtin="llava_vista.adapters")
_entry_points_loaded = False


def register_adapter(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Class decorator: make the adapter known as ``name``.

    Raises:
        RegistryError: the name is taken.
    """

    def register(cls: type[Adapter]) -> type[Adapter]:
        cls.name = name
        ADAPTERS.add(name, cls)
        return cls

    return register


def all_adapters() -> list[Adapter]:
    """One instance of every adapter: those shipped, those registered, those of installed packages (entry points)."""
    global _entry_points_loaded
    if not _entry_points_loaded:
        for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
            try:
                entry.load()  # importing the module registers the adapter
            except Exception as error:
                raise UnsupportedModelError(
                    f"the adapter {entry.name} ({entry.value}) of an installed package could not be loaded: {error!r}. "
                    "Mend or uninstall that package."
                ) from error
        _entry_points_loaded = True
    return [cls() for cls in ADAPTERS]


def embedding_parent(model: nn.Module) -> nn.Module:
    """The module that owns the input embedding: the decoder stack in every family looked at so far.

    Raises:
        UnsupportedModelError: the model has no input embedding, or nothing owns it.
    """
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    for module in model.modules():
        if any(child is embedding for child in module.children()):
            return module
    raise UnsupportedModelError(
        f"{type(model).__name__}: no module owns the input embedding {type(embedding).__name__}; the adapter should "
        "say which module is the decoder (override Adapter.decoder)."
    )


def find_adapter(model: nn.Module) -> Found:
    """Find the adapter for a model, also inside wrappers such as PEFT's.

    Raises:
        UnsupportedModelError: no adapter recognises it (lists the known ones), or several do (names them).
    """
    adapters = all_adapters()
    found: list[Found] = []
    for module in model.modules():
        claims = [adapter for adapter in adapters if adapter.matches(module)]
        if len(claims) > 1:
            raise UnsupportedModelError(
                f"{type(module).__name__} is claimed by several adapters: "
                f"{', '.join(f'{claim.name} ({type(claim).__module__})' for claim in claims)}. "
                "Uninstall one of them, or make its `classes` more specific."
            )
        inside_found = any(module is inner for outer in found for inner in outer.module.modules())
        if claims and not inside_found:
            found.append(Found(claims[0], module))
    if len(found) > 1:
        raise UnsupportedModelError(
            f"{type(model).__name__} holds several models that VISTA could act on: "
            f"{', '.join(type(item.module).__name__ for item in found)}. Attach to the one that is trained."
        )
    if not found:
        bases = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(model).__mro__[:3]]
        raise UnsupportedModelError(
            f"no adapter recognises {' < '.join(bases)}. Known adapters: "
            + "; ".join(f"{adapter.name} ({', '.join(adapter.classes) or 'by its own rule'})" for adapter in adapters)
            + ". A model of another family needs register_adapter; a text-only language model has no image to align."
        )
    return found[0]
