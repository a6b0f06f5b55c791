"""What a checkout holds of the change, and what its files would hold with it or without it. Nothing is written here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from . import lines
from .errors import PatchError
from .upstreams import PARTS, Edit, NewFile, Upstream


@dataclass
class File:
    """One file of the checkout: None where it does not exist."""

    path: Path
    now: bytes | None
    without: bytes | None
    with_change: bytes | None


@dataclass
class Plan:
    """The files, and for each piece whether it is there.

    skipped: optional pieces that find no place; misfits: pieces that need one and find none; problems: pieces that are
    there but were changed. Nothing is applied with a misfit or a problem, nothing reversed with a problem.
    """

    upstream: Upstream
    root: Path
    files: dict[str, File] = field(default_factory=dict)
    present: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    misfits: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def make_plan(upstream: Upstream, root: Path, only: Collection[str] = ()) -> Plan:
    """Look at every file of the change, or of those parts only.

    Raises:
        PatchError: a part of that name does not exist, or a file lies outside of the checkout.
    """
    unknown = sorted(set(only) - set(PARTS))
    if unknown:
        raise PatchError(f"no part is named {', '.join(unknown)}; there are {', '.join(PARTS)}.")
    plan = Plan(upstream, root)
    for piece in upstream.pieces:
        if only and piece.part not in only:
            continue
        file = plan.files.get(piece.file) or _open(root, piece.file)
        plan.files[piece.file] = file
        try:
            if isinstance(piece, Edit):
                _look_for_edit(plan, file, piece)
            else:
                _look_for_file(plan, file, piece)
        except PatchError as error:
            plan.problems.append(f"{piece.file}: {error}")
    _check_that_it_can_be_undone(plan)
    return plan


def _open(root: Path, name: str) -> File:
    path = (root / name).resolve()  # a link is followed, so that it stays one
    if not path.is_relative_to(root.resolve()):
        raise PatchError(f"{name} is a link to {path}, outside of {root}; only files inside are written.")
    try:
        now = path.read_bytes()
    except FileNotFoundError:
        now = None
    return File(path, now, now, now)


def _look_for_edit(plan: Plan, file: File, edit: Edit) -> None:
    what = f"{edit.file}: {edit.part}"
    if file.without is None or file.with_change is None:
        _missing(plan, edit, "the file does not exist")
        return
    start = lines.find_block(file.without, edit.lines)
    if start is not None:
        file.without = lines.remove(file.without, start, len(edit.lines))
        plan.present.append(what)
        return
    anchors = lines.find_anchor(file.with_change, edit.anchor)
    if len(anchors) != 1:
        found = f"{len(anchors)} lines begin" if anchors else "no line begins"
        _missing(plan, edit, f"{found} with {edit.anchor!r}, beside which the lines would go; expected one")
        return
    file.with_change = lines.insert(file.with_change, anchors[0], edit.lines, before=edit.before)
    plan.absent.append(what)


def _missing(plan: Plan, edit: Edit, reason: str) -> None:
    if PARTS[edit.part]:
        plan.skipped.append(f"{edit.part} is left out: in {edit.file} {reason}.")
    else:
        plan.misfits.append(f"{edit.file}: {reason}")


def _look_for_file(plan: Plan, file: File, new: NewFile) -> None:
    content = [line.encode() for line in new.lines]
    if file.now is None:
        end = _ending_of(plan)
        file.with_change = b"".join(line + end for line in content)
        plan.absent.append(f"{new.file}: {new.part}")
    elif lines.without_endings(file.now) == content:
        file.without = None
        plan.present.append(f"{new.file}: {new.part}")
    elif PARTS[new.part]:
        plan.skipped.append(f"{new.part} is left out: {new.file} exists already and is another file.")
    else:
        raise PatchError("exists already and is another file")


def _ending_of(plan: Plan) -> bytes:
    """A new file gets the line ending of the others."""
    now = next((file.now for file in plan.files.values() if file.now), b"")
    first = lines.split(now)[:1]
    return (lines.ending(first[0]) if first else b"") or b"\n"


def _check_that_it_can_be_undone(plan: Plan) -> None:
    """Before anything is written: taking the new lines out again gives what is there now."""
    for name, file in plan.files.items():
        edits = [piece for piece in plan.upstream.pieces if isinstance(piece, Edit) and piece.file == name]
        if file.with_change is None or file.with_change == file.now:
            continue
        restored: bytes | None = file.with_change
        for edit in edits:
            start = lines.find_block(restored, edit.lines) if restored is not None else None
            if start is not None and restored is not None:
                restored = lines.remove(restored, start, len(edit.lines))
        if edits and restored != file.without:
            raise PatchError(f"{name}: the lines could be put in but not taken out again as they were; nothing done.")
