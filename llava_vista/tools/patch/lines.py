"""Lines put into a file beside an anchor, and taken out again byte for byte.

Files are bytes: nothing is decoded, so that any encoding and either line ending come through. An anchor is the
beginning of a line, without its indentation; what is put in takes over the anchor's indentation and line ending.
"""

from __future__ import annotations

from collections.abc import Sequence

from .errors import PatchError


def split(data: bytes) -> list[bytes]:
    """Lines with their ends; only LF ends one, as for git."""
    return data.splitlines(keepends=True) if b"\r" not in data else _split_on_lf(data)


def _split_on_lf(data: bytes) -> list[bytes]:
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def body(line: bytes) -> bytes:
    """A line without its end."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def ending(line: bytes) -> bytes:
    return line[len(body(line)) :]


def without_endings(data: bytes) -> list[bytes]:
    """For comparing files whose line endings may differ, as after a checkout with core.autocrlf."""
    return [body(line) for line in split(data)]


def _indentation(line: bytes) -> bytes:
    return line[: len(line) - len(line.lstrip(b" \t"))]


def find_anchor(data: bytes, anchor: str) -> list[int]:
    """The indices of the lines that begin with the anchor."""
    wanted = anchor.encode()
    return [index for index, line in enumerate(split(data)) if line.lstrip(b" \t").startswith(wanted)]


def find_block(data: bytes, block: Sequence[str]) -> int | None:
    """Where the lines stand one after the other at a common indentation; None when they do not.

    Raises:
        PatchError: they stand there twice, or only their first line does.
    """
    lines = [body(line) for line in split(data)]
    first = block[0].encode()
    starts = [index for index, line in enumerate(lines) if line.lstrip(b" \t") == first]
    whole = [
        start for start in starts if lines[start : start + len(block)] == _indented(block, _indentation(lines[start]))
    ]
    if len(whole) > 1:
        raise PatchError(f"{block[0]!r} and what follows it stands there {len(whole)} times, expected once")
    if starts and not whole:
        raise PatchError(f"line {starts[0] + 1} is {block[0]!r}, but what follows was changed")
    return whole[0] if whole else None


def _indented(block: Sequence[str], indentation: bytes) -> list[bytes]:
    return [indentation + line.encode() if line else b"" for line in block]


def insert(data: bytes, anchor_index: int, block: Sequence[str], *, before: bool) -> bytes:
    """Put the lines beside the line at ``anchor_index``."""
    lines = split(data)
    anchor = lines[anchor_index]
    new = _indented(block, _indentation(body(anchor)))
    if before:
        at, end = anchor_index, ending(anchor) or _usual_ending(lines)
        return b"".join([*lines[:at], *(line + end for line in new), *lines[at:]])
    end = ending(anchor)
    if end:
        at = anchor_index + 1
        return b"".join([*lines[:at], *(line + end for line in new), *lines[at:]])
    # the file's last line has no end: neither gets the new last one, so that removing them restores it
    end = _usual_ending(lines)
    return b"".join([*lines, end, end.join(new)])


def _usual_ending(lines: Sequence[bytes]) -> bytes:
    return next((ending(line) for line in lines if ending(line)), b"\n")


def remove(data: bytes, start: int, count: int) -> bytes:
    """Take ``count`` lines out: the opposite of `insert`."""
    lines = split(data)
    last = lines[start + count - 1]
    kept = [*lines[:start], *lines[start + count :]]
    if not ending(last) and start > 0:
        kept[start - 1] = body(kept[start - 1])
    return b"".join(kept)
