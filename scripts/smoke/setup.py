"""Make checkout, base checkpoints and data for the smoke test, arranged as the real recipes expect them.

python setup.py FOLDER makes FOLDER/checkout (LLaVA's package as installed, with the launch scripts beside this file),
FOLDER/base/{language_model,vision_tower} and FOLDER/data.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import llava

from llava_vista.tools.demo.paired_training import Sizes, make_setup

#: A handful of steps in each stage.
SIZES = Sizes(text_steps=20, scenes=40, heldout=16)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    made = make_setup(folder / "made", SIZES, seed=0)
    checkout = folder / "checkout"
    shutil.copytree(Path(__file__).parent / "LLaVA", checkout)
    (checkout / "llava").symlink_to(Path(llava.__file__).parent)
    (folder / "base").mkdir()
    made.tiny.language_model.rename(folder / "base" / "language_model")
    made.tiny.vision_tower.rename(folder / "base" / "vision_tower")
    (folder / "made" / "data").rename(folder / "data")


if __name__ == "__main__":
    main()
