"""The change as git prints one, so that it can be sent, and applied with ``git apply``."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .lines import split
from .plan import File

#: Lines of the repository around each change: as few as `git apply` takes without being told.
CONTEXT = 1


def diff(files: Iterable[tuple[str, File]]) -> bytes:
    """From the files without the change to those with it."""
    return b"".join(_one(name, file.without, file.with_change) for name, file in sorted(files))


def _one(name: str, old: bytes | None, new: bytes | None) -> bytes:
    if old == new:
        return b""
    head = f"diff --git a/{name} b/{name}\n"
    if old is None:
        head += "new file mode 100644\n"
    path = name.encode()
    body = difflib.diff_bytes(
        difflib.unified_diff,
        split(old or b""),
        split(new or b""),
        b"/dev/null" if old is None else b"a/" + path,
        b"b/" + path,
        n=CONTEXT,
    )
    ended = [line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in body]
    return head.encode() + b"".join(ended)
