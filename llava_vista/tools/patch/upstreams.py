"""The repositories that a native change is known for: one data file each, in ``known/``.

    name, title, url     what it is
    tried                the commit, its date and version on which the change was made and tried
    evidence             [file, text, whether the file has it]: together they tell this repository from the others
    edits                lines to insert: part, file, `after` or `before` (the beginning of one line), insert
    files                new files: part, file, content

A part is what ``--only`` names. Where an anchor of an optional part is missing (a fork with a README of its own), that
part is left out and said so; "code" is never optional.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from .errors import PatchError

#: part -> whether the change makes sense without it
PARTS = {"code": False, "extra": True, "readme": True, "test": True}


class Evidence(NamedTuple):
    """That a file has, or has not, a text."""

    file: str
    text: str
    present: bool

    def holds(self, root: Path) -> bool:
        try:
            found = self.text.encode() in (root / self.file).read_bytes()
        except OSError:
            return False
        return found == self.present

    def __str__(self) -> str:
        return f"{self.file} {'with' if self.present else 'without'} {self.text!r}"


@dataclass(frozen=True)
class Edit:
    """Lines beside an anchor in a file."""

    part: str
    file: str
    anchor: str
    before: bool
    lines: tuple[str, ...]


@dataclass(frozen=True)
class NewFile:
    """A file that the repository does not have."""

    part: str
    file: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Upstream:
    """A repository and the change that makes VISTA native in it."""

    name: str
    title: str
    url: str
    tried: dict[str, str]
    evidence: tuple[Evidence, ...]
    pieces: tuple[Edit | NewFile, ...]


@cache
def known() -> tuple[Upstream, ...]:
    """All of them."""
    folder = resources.files(__package__).joinpath("known")
    texts = [item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith(".json")]
    return tuple(sorted((_read(json.loads(text)) for text in texts), key=lambda upstream: upstream.name))


def _read(content: dict) -> Upstream:  # type: ignore[type-arg]
    edits = tuple(
        Edit(
            item["part"],
            item["file"],
            item.get("before") or item["after"],
            "before" in item,
            tuple(item["insert"]),
        )
        for item in content["edits"]
    )
    files = tuple(NewFile(item["part"], item["file"], tuple(item["content"])) for item in content["files"])
    return Upstream(
        content["name"],
        content["title"],
        content["url"],
        content["tried"],
        tuple(Evidence(*item) for item in content["evidence"]),
        (*edits, *files),
    )


def recognise(root: Path) -> Upstream:
    """The upstream that a checkout is of, or a fork of.

    Raises:
        PatchError: it is of none, or of several; the message says what was looked for.
    """
    if not root.is_dir():
        raise PatchError(f"{root} is not a directory; --repo names the checkout of the repository to patch.")
    found = [upstream for upstream in known() if all(item.holds(root) for item in upstream.evidence)]
    if len(found) == 1:
        return found[0]
    looked = "; ".join(f"{item.title}: {', '.join(map(str, item.evidence))}" for item in known())
    which = "several repositories at once" if found else "none of the repositories that a patch is known for"
    raise PatchError(
        f"{root} looks like {which}. Looked for: {looked}. No patch is needed to use VISTA there: `llava-vista doctor "
        f"{root}` tells whether --vista works with it unpatched."
    )


def version(root: Path) -> str:
    """The version that the checkout's pyproject.toml states."""
    try:
        text = (root / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "of unknown version (no pyproject.toml)"
    match = re.search(r"""^version\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return match[1] if match else "of unknown version (pyproject.toml states none)"
