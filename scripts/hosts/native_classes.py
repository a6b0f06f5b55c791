"""Walk all image-text classes of the installed transformers, and write what VISTA makes of each.

    python scripts/hosts/native_classes.py [--output scripts/hosts/NATIVE.md]

A class with a tiny model in tests/support/native_models.py runs the conformance kit, which computes the term by loops
of its own. Any other is built from its default configuration on the meta device, with two layers, and attached: that
shows whether VISTA refuses it, and by which placeholders it goes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from native_models import FAMILIES  # noqa: E402

from llava_vista import VistaError, attach  # noqa: E402
from llava_vista.adapters import find_adapter  # noqa: E402
from llava_vista.testing import ConformanceError, check_adapter  # noqa: E402

#: Configuration fields that say how many layers there are.
LAYERS = ("num_hidden_layers", "num_layers", "depth", "encoder_layers", "decoder_layers")


def shorten(config: transformers.PretrainedConfig) -> None:
    """Two layers in each part of the model."""
    for name in LAYERS:
        if isinstance(getattr(config, name, None), int):
            setattr(config, name, 2)
    for part in vars(config).values():
        if isinstance(part, transformers.PretrainedConfig):
            shorten(part)


def run_kit(name: str) -> str:
    """Return the verdict of the conformance kit."""
    family = FAMILIES[name]
    try:
        outcomes = check_adapter(family.build, family.batch)
    except ConformanceError as error:
        return f"**wrong**: {' '.join(str(error).split())}"
    skipped = [outcome.check for outcome in outcomes if outcome.result == "skipped"]
    return "exact" + (f" ({', '.join(skipped)} skipped)" if skipped else "")


def attach_default(name: str) -> tuple[str, str]:
    """Return the adapter and the verdict for a model of the default configuration."""
    cls = getattr(transformers, name)
    try:
        with torch.device("meta"):
            config = cls.config_class()
            shorten(config)
            model = cls(config)
    except Exception as error:  # noqa: BLE001  (a class may raise anything)
        return "", f"cannot be built from its default configuration: {type(error).__name__}: {first_line(error)}"
    try:
        handle = attach(model)
    except VistaError as error:
        return "", f"refused: {first_line(error)}"
    words = f"attaches, not run: {handle.observer.describe_layout()}"
    handle.detach()
    return handle.adapter.name, words


def first_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text.split(". Known adapters")[0][:160].replace("|", "/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("NATIVE.md"))
    output = parser.parse_args().output
    transformers.logging.set_verbosity_error()
    rows = []
    values = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()
    for name in sorted({value if isinstance(value, str) else value[0] for value in values}):
        if name in FAMILIES:
            adapter, words = find_adapter(FAMILIES[name].build()).adapter.name, run_kit(name)
        else:
            adapter, words = attach_default(name)
        rows.append((name, adapter, words))
        print(*rows[-1], sep=" | ", flush=True)
    kinds = ("exact", "**", "attaches", "refused", "cannot")
    exact, wrong, attaches, refused, not_built = (sum(row[2].startswith(kind) for row in rows) for kind in kinds)
    lines = [
        f"# transformers {transformers.__version__}: {len(rows)} image-text classes",
        "",
        "Written by `native_classes.py`. *exact*: a tiny model passed the conformance kit, loops of its own included.",
        "*attaches, not run*: VISTA knows the placeholders, and checks the first batch against the embedding table.",
        "*refused*: before any step, in these words.",
        "",
        f"exact {exact}, wrong {wrong}, attaches but not run {attaches}, refused {refused}, not built {not_built}.",
        "",
        "| class | adapter | result |",
        "|---|---|---|",
        *(f"| {name} | {adapter} | {words} |" for name, adapter, words in rows),
    ]
    output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
