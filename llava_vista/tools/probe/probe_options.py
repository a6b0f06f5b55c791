"""The options of ``llava-vista probe``. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import ConfigError

#: Meanings of "no image"; `image_removal` says what each does to the values.
NO_IMAGE = {
    "masked": "image positions masked out of attention, position ids unchanged",
    "blank": "a uniform grey image of the same size",
    "shuffled": "another sample's image (each image is given another one, by the seed)",
}
MEASURES = ("information", "alignment", "attention", "neighbours")
RESAMPLES = 1000


@dataclass
class ProbeOptions:
    """The options with their defaults; see `add_arguments`.

    Raises:
        ConfigError: a value is out of range.
    """

    checkpoints: Sequence[Path]
    data: Path | None = None
    images: Path | None = None
    output: Path = Path("vista-probe")
    names: Sequence[str] = ()
    no_image: str = "masked"
    measures: Sequence[str] = MEASURES
    samples: int = 200
    batch_size: int = 4
    max_new_tokens: int = 128
    base: Path | None = None
    template: str | None = None
    tower: str | None = None
    device: str | None = None
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        self.names = tuple(self.names or short_names(self.checkpoints))
        self.measures = tuple(name for name in MEASURES if name in self.measures)
        for name in ("samples", "batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}.")
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise ConfigError("a checkpoint was given twice.")
        if len(self.names) != len(self.checkpoints) or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"--names must give each of the {len(self.checkpoints)} checkpoints a name of its own, got "
                f"{', '.join(self.names)}."
            )

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> ProbeOptions:
        """Read the arguments of `add_arguments`."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in vars(arguments).items() if name in known})

    def record(self) -> dict[str, Any]:
        """Return the options as plain values for the JSON. Checkpoints have records of their own."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        for name in ("checkpoints", "names", "output"):
            del plain[name]
        return {**plain, "resamples": RESAMPLES}


def short_names(paths: Sequence[Path]) -> tuple[str, ...]:
    """Return the parts of the paths that differ; one path keeps its last two parts."""
    parts = [path.absolute().parts for path in paths]
    if len(parts) == 1:
        return ("/".join(parts[0][-2:]),)
    shortest = min(len(part) for part in parts)
    head = next((i for i in range(shortest) if len({part[i] for part in parts}) > 1), shortest - 1)
    tail = next((i for i in range(shortest - head) if len({part[-1 - i] for part in parts}) > 1), 0)
    return tuple("/".join(part[head : len(part) - tail]) for part in parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``llava-vista probe``. What is not given keeps the default of `ProbeOptions`."""

    def add(name: str, text: str, **how: Any) -> None:
        parser.add_argument(f"--{name}", help=text, default=argparse.SUPPRESS, **how)

    parser.add_argument("checkpoints", nargs="+", type=Path, metavar="CHECKPOINT", help="folders, as training saves")
    add("data", "JSON in LLaVA's format; without it, see --images", type=Path, metavar="FILE")
    add(
        "images",
        "folder of the data's images (default: the data file's own); without --data, the model describes every image "
        "in it",
        type=Path,
        metavar="DIR",
    )
    add("output", "folder for probe.json, .png, .svg (default vista-probe)", type=Path, metavar="DIR")
    meanings = "; ".join(f"{name} = {text}" for name, text in NO_IMAGE.items())
    add("no-image", f"what the image is compared with (default masked): {meanings}", choices=tuple(NO_IMAGE))
    add("measures", "what to measure (default: all)", nargs="+", choices=MEASURES)
    add("samples", "at most so many, at random (default 200)", type=int, metavar="N")
    add("batch-size", "samples at a time (default 4)", type=int, metavar="B")
    add("max-new-tokens", "length of the model's own answers (default 128)", type=int, metavar="T")
    add("base", "language model of a projector or LoRA checkpoint", type=Path, metavar="DIR")
    add("template", "conversation template of the host (default: its family's for tuning; plain for stage 1)")
    add("tower", "timm model to compare neighbourhoods with, instead of the own tower", metavar="NAME")
    add("names", "names of the checkpoints in the figure", nargs="+")
    add("device", "as torch names it (default: cuda if available, else cpu)")
    add("dtype", "precision (default: float32 on a CPU, else bfloat16)", choices=("float32", "bfloat16", "float16"))
    add("seed", "of the choice of samples, shuffling and resampling (default 0)", type=int)
