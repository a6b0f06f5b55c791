"""Walk all image-text classes of the installed transformers, and write what VISTA does with each.

    python scripts/hosts/native_classes.py [--output scripts/hosts/NATIVE.md] [NAME ...]

A class with a tiny model in tests/support (native_models.py, native_more.py) runs the conformance kit, which computes
the term by loops of its own. Any other is built from its default configuration on the meta device, with two layers, and
attached: that shows whether VISTA refuses it.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from native_batches import AUDIO, IMAGE, VIDEO, misread_rows  # noqa: E402
from native_models import FAMILIES  # noqa: E402
from native_more import MORE, NOTES, SKIP  # noqa: E402

from llava_vista import VistaError, attach  # noqa: E402
from llava_vista.adapters import find_adapter  # noqa: E402
from llava_vista.testing import ConformanceError, check_adapter  # noqa: E402

#: Configuration fields that say how many layers there are.
LAYERS = ("num_hidden_layers", "num_layers", "depth", "encoder_layers", "decoder_layers")
KINDS = ("exact", "wrong", "refused", "not run", "cannot be built")


class Row(NamedTuple):
    """kind: one of `KINDS`. seen: the modalities of the batch that was run."""

    name: str
    kind: str
    adapter: str = ""
    seen: str = ""
    words: str = ""


def run_kit(name: str) -> Row:
    """Run the conformance kit on the tiny model."""
    family = (FAMILIES | MORE)[name]
    try:
        adapter = find_adapter(family.build()).adapter.name
    except VistaError as error:
        return Row(name, "refused", words=one_line(error))
    ids = family.batch()["input_ids"]
    names = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
    seen = ", ".join(modality for modality, token in names.items() if bool((ids == token).any()))
    try:
        outcomes = check_adapter(family.build, family.batch, skip=SKIP.get(name, ()))
    except ConformanceError as error:
        return Row(name, "wrong", adapter, seen, one_line(error, 600))
    misread = misread_rows(family)
    if misread:
        return Row(name, "wrong", adapter, seen, f"{misread} positions are taken for image rows, or are not")
    skipped = [
        f"{outcome.check} skipped ({shorten(outcome.words)})" for outcome in outcomes if outcome.result == "skipped"
    ]
    return Row(name, "exact", adapter, seen, "; ".join([*NOTES.get(name, "").splitlines(), *skipped]))


def attach_default(name: str) -> Row:
    """Attach to a model of the default configuration."""
    cls = getattr(transformers, name)
    try:
        with torch.device("meta"):
            config = cls.config_class()
            two_layers(config)
            model = cls(config)
    except Exception as error:  # noqa: BLE001  (a class may raise anything)
        return Row(name, "cannot be built", words=f"{type(error).__name__}: {one_line(error)}")
    try:
        handle = attach(model)
    except VistaError as error:
        return Row(name, "refused", words="; ".join([one_line(error), *NOTES.get(name, "").splitlines()]))
    words = f"no tiny model: {handle.observer.describe_layout()}"
    handle.detach()
    return Row(name, "not run", handle.adapter.name, words=words)


def two_layers(config: transformers.PretrainedConfig) -> None:
    """Leave two layers in each part of the model."""
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, 2)
    for part in vars(config).values():
        if isinstance(part, transformers.PretrainedConfig):
            two_layers(part)


def one_line(error: Exception, length: int = 240) -> str:
    """Return the start of a message: whole sentences, without the known adapters, and classes by their own names."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.split(". Known adapters")[0].split(" < ")[0].replace("|", "/")
    return shorten(text.replace("transformers.models.", ""), length)


def shorten(text: str, length: int = 80) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: text.rfind(" ", 0, length)] + " ..."


def write(path: Path, rows: list[Row]) -> None:
    counts = ", ".join(f"{kind} {sum(row.kind == kind for row in rows)}" for kind in KINDS)
    lines = [
        f"# transformers {transformers.__version__}: {len(rows)} image-text classes",
        "",
        "Written by `native_classes.py`.",
        "",
        "- *exact*: a tiny model passed the conformance kit, whose loops compute the term on their own, and its image",
        "  rows are the image and video tokens of the batch. *seen*: what the batch held. A check is skipped where it",
        "  does not apply to the class, or fails without VISTA too.",
        "- *wrong*: it attached, and a check failed.",
        "- *refused*: by `attach()`, before any step, in these words. *No adapter recognises* a class whose",
        "  configuration names no image token: images are not in its decoder's sequence, or enter by other arguments.",
        "- *not run*: it attaches, and nothing more is known.",
        "- *cannot be built*: here, for the reason that is given.",
        "",
        f"{counts}.",
        "",
        "| class | result | adapter | seen | |",
        "|---|---|---|---|---|",
        *(f"| {row.name} | {row.kind} | {row.adapter} | {row.seen} | {row.words} |" for row in rows),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="default: NATIVE.md beside this script, for all classes")
    parser.add_argument("names", nargs="*", metavar="NAME", help="classes; default: all")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    values = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    rows = []
    for name in arguments.names or sorted({value if isinstance(value, str) else value[0] for value in values}):
        rows.append(run_kit(name) if name in FAMILIES | MORE else attach_default(name))
        print(*rows[-1], sep=" | ", flush=True)
    output = arguments.output or (None if arguments.names else Path(__file__).with_name("NATIVE.md"))
    if output is not None:
        write(output, rows)


if __name__ == "__main__":
    main()
