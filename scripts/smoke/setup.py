"""Make checkout, base checkpoints and data for the smoke test, arranged as the real recipes expect them.

python setup.py FOLDER makes FOLDER/checkout (LLaVA's package as installed, with the launch scripts beside this file),
FOLDER/base/{language_model,vision_tower}, FOLDER/data, and in FOLDER/tasks a task of lmms-eval over held-out questions.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import llava

from llava_vista.tools.demo.heldout_answers import load_records
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
    data = (folder / "made" / "data").rename(folder / "data").resolve()
    tasks = Path(shutil.copytree(Path(__file__).parent / "lmms_tasks", folder / "tasks")).resolve()
    records = [
        {**record, "image": str(data / "images" / record["image"])} for record in load_records(data / "heldout.json")
    ]
    (tasks / "questions.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    task = tasks / "scenes.yaml"
    task.write_text(task.read_text().replace("QUESTIONS", str(tasks / "questions.jsonl")), encoding="utf-8")


if __name__ == "__main__":
    main()
