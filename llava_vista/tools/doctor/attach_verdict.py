"""What attach() does with the model classes of a host, decided from their source."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...adapters import MERGE_ARGUMENTS, Adapter
from ..kit.host_source import ClassSource, Method, SourceTree

#: Attributes of a configuration in which the generic adapter looks for image tokens.
_PLACEHOLDERS = re.compile(rb"\b(?:image|video)_token_(?:id|index)\b")
#: In the name of a parameter that takes images; a forward pass with one, and with labels, is a trainable model's.
_IMAGE_WORDS = re.compile("image|pixel|vision|video|media")
#: Embeddings, labels and a mask. Where they are among the returned values, the first merge shows.
LEAST_RETURNS = 3
#: Bases that bring no get_input_embeddings; others from outside the tree are taken for transformers' models.
_PLAIN_BASES = frozenset({"object", "ABC", "Module", "Generic", "Protocol"})


@dataclass(frozen=True)
class Verdict:
    """What attach() does with one model class."""

    cls: ClassSource
    place: str  # "path:line" in its tree
    adapter: Adapter | None = None  # None when attach() refuses the class
    merge: Method | None = None  # the merge method that the class defines or inherits
    problem: str = ""  # why attach() refuses it, or why its first forward pass stops

    @property
    def name(self) -> str:
        return self.cls.name

    @property
    def package(self) -> str:
        return self.cls.module.partition(".")[0]

    @property
    def adapter_name(self) -> str:
        return self.adapter.name if self.adapter else "none"

    def __str__(self) -> str:
        end = f": {self.problem}" if self.problem else ""
        if self.adapter and self.adapter.fallback and not self.problem:
            how = "its merge method" if self.merge else "image_token_id in its configuration, if it is a number"
            end = f", by {how}; the first batch is checked"
        return f"{self.adapter_name} for {self.name} ({self.place.partition(':')[0]}){end}"


def host_packages(adapters: Sequence[Adapter]) -> list[str]:
    """Return the top-level packages that adapters know classes of."""
    return sorted({qualified.partition(".")[0] for adapter in adapters for qualified in adapter.classes})


def model_verdicts(tree: SourceTree, adapters: Sequence[Adapter]) -> list[Verdict]:
    """Return the verdicts on all classes of a tree that an adapter recognises, or that look like trainable models."""
    known = {qualified for adapter in adapters for qualified in adapter.classes}
    verdicts = []
    for path, _ in tree.mentioning({"def forward", *(qualified.rpartition(".")[2] for qualified in known)}):
        for cls in tree.classes_of(path):
            forward = cls.method("forward")
            if forward is None and cls.qualified not in known:
                continue
            verdict, names = _judge(tree, cls, adapters), set(forward.parameters if forward else ())
            takes_text = "labels" in names and names & {"input_ids", "inputs_embeds"}
            if verdict.adapter or (takes_text and any(map(_IMAGE_WORDS.search, names))):
                verdicts.append(verdict)
    return verdicts


def _judge(tree: SourceTree, cls: ClassSource, adapters: Sequence[Adapter]) -> Verdict:
    lineage, outside = tree.lineage(cls)
    names = {item.qualified for item in lineage}
    embeds = any(base.rpartition(".")[2] not in _PLAIN_BASES for base in outside) or any(
        item.method("get_input_embeddings") for item in lineage
    )
    has_ids = any(_PLACEHOLDERS.search(tree.texts[item.path]) for item in lineage)
    place = tree.place(cls.path, cls.node.lineno)

    def merge_of(adapter: Adapter) -> Method | None:
        found = next((method for item in lineage if (method := item.method(adapter.merge_method))), None)
        return None if found and adapter.fallback and not set(MERGE_ARGUMENTS) <= set(found.parameters) else found

    claims = [
        adapter
        for adapter in adapters
        if not adapter.fallback
        and (names & set(adapter.classes) or any(_is_listed(base, adapter) for base in outside))
        # A sheet with a rule of its own (VILA's) also wants the merge method.
        and (type(adapter).matches is Adapter.matches or merge_of(adapter))
    ] or [adapter for adapter in adapters if adapter.fallback and embeds and (merge_of(adapter) or has_ids)]
    if not claims:
        problem = "it has no known class, merge method or image token id. Write a data sheet (register_adapter)."
        return Verdict(cls, place, problem=problem)
    if len(claims) > 1:
        return Verdict(cls, place, problem=f"several adapters claim it: {', '.join(claim.name for claim in claims)}.")
    [adapter], merge = claims, merge_of(claims[0])
    is_elsewhere = merge is None and any(_is_listed(base, adapter) for base in outside)
    return Verdict(cls, place, adapter, merge, "" if is_elsewhere else _merge_problem(adapter, merge))


def _merge_problem(adapter: Adapter, merge: Method | None) -> str:
    """Return why the first forward pass stops with this merge method; "" when it does not."""
    if merge is None:
        if type(adapter).placeholder_ids is not Adapter.placeholder_ids:
            return ""
        lost = f"{adapter.merge_method}, which adapter {adapter.name} goes by, is not defined in this checkout"
        return f"{lost}: this version of the host differs from those known."
    if missing := [name for name in MERGE_ARGUMENTS if name not in merge.parameters]:
        return f"{merge.name} has no parameter {' or '.join(missing)}, which VISTA passes by name."
    if merge.returns and max(merge.returns) < LEAST_RETURNS:
        found = " or ".join(map(str, merge.returns))
        return f"{merge.name} returns {found} values; embeddings, labels and a mask are needed."
    return ""


def _is_listed(base: str, adapter: Adapter) -> bool:
    """Return whether a base from outside the tree is a class of the adapter, also if a package passes it on."""
    package, name = base.partition(".")[0], base.rpartition(".")[2]
    return any(item.startswith(f"{package}.") and item.endswith(f".{name}") for item in adapter.classes)
