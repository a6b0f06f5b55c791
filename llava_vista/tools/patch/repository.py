"""The checkout as git sees it, and writing to it: all files or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import lines
from .errors import PatchError
from .upstreams import Edit, Upstream


def _git(root: Path, *words: str) -> bytes | None:
    """What git prints; None when there is no git, no repository, or no such thing in it."""
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def commit(root: Path) -> str | None:
    """Short name and date of the commit that is checked out; None where git knows none of ``root``'s files."""
    if not _git(root, "ls-files"):
        return None
    shown = _git(root, "log", "-1", "--format=%h, %cs")
    return shown.decode().strip() if shown else None


def is_dirty(root: Path, name: str, now: bytes | None, upstream: Upstream) -> bool:
    """Whether a file holds changes that are not committed, the ones of this patch not counted.

    Line endings are not compared: git itself may have converted them. A file that git does not know is not dirty.
    """
    committed = _git(root, "show", f"HEAD:./{name}")
    if committed is None or now is None:
        return False
    return _own(committed, name, upstream) != _own(now, name, upstream)


def _own(data: bytes, name: str, upstream: Upstream) -> list[bytes]:
    """The lines of a file without those of the patch."""
    for piece in upstream.pieces:
        if isinstance(piece, Edit) and piece.file == name:
            with contextlib.suppress(PatchError):
                start = lines.find_block(data, piece.lines)
                if start is not None:
                    data = lines.remove(data, start, len(piece.lines))
    return lines.without_endings(data)


def write_all(root: Path, contents: Mapping[Path, bytes | None]) -> None:
    """Write these files, or delete those with None. What fails halfway is put back.

    Every new content lies on the disk beside its target before the first one is replaced.

    Raises:
        PatchError: a file could not be written; all are as they were.
    """
    before = {path: path.read_bytes() if path.exists() else None for path in contents}
    prepared: dict[Path, Path] = {}
    made: list[Path] = []
    done: list[Path] = []
    try:
        for path, content in contents.items():
            if content is not None:
                made += _make_folders(path.parent)
                prepared[path] = _beside(path, content)
        for path, content in contents.items():
            done.append(path)
            if content is None:
                path.unlink(missing_ok=True)
            else:
                os.replace(prepared[path], path)
                del prepared[path]
    except BaseException as error:
        for path in done:
            _restore(path, before[path])
        for temporary in prepared.values():
            temporary.unlink(missing_ok=True)
        _remove_empty(root, made)
        if isinstance(error, OSError):
            raise PatchError(f"{error}. Nothing was changed.") from error
        raise
    _remove_empty(root, [path.parent for path, content in contents.items() if content is None])


def _beside(path: Path, content: bytes) -> Path:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    if path.exists():
        shutil.copymode(path, name)
    else:
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
    return Path(name)


def _restore(path: Path, content: bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        os.replace(_beside(path, content), path)


def _make_folders(folder: Path) -> list[Path]:
    missing = [item for item in (folder, *folder.parents) if not item.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_empty(root: Path, folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder != root.resolve() and not any(folder.iterdir()):
                folder.rmdir()
