"""Evaluate a model on held-out questions, in the form and with the scorer of LLaVA's own TextVQA evaluation.

python evaluate.py MODEL DATA asks the questions of DATA/heldout.json. LLaVA's own answering script needs a GPU, so the
demo's is used (stock LLaVA, greedy); the answers are written as LLaVA's scripts write them, and scored by
llava.eval.eval_textvqa. All goes to llava-eval-<folder of MODEL> beside MODEL, where `llava-vista compare` finds it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from llava_vista.tools.demo.heldout_answers import answer_questions, load_records

INSTRUCTION = "\nAnswer the question using a single word or phrase."


def main() -> None:
    model, data = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    output = model.parent / f"llava-eval-{model.name}"
    output.mkdir(exist_ok=True)
    questions = load_records(data / "heldout.json")
    asked = [{**record, "text": record["text"] + INSTRUCTION} for record in questions]
    given = answer_questions(model, asked, data / "images")
    annotations = [
        {"image_id": record["question_id"], "question": record["text"], "answers": [record["answer"]] * 10}
        for record in questions
    ]
    (output / "annotations.json").write_text(json.dumps({"data": annotations}), encoding="utf-8")
    answers = output / f"{model.name}.jsonl"
    with open(answers, "w", encoding="utf-8") as file:
        for record, text in zip(asked, given, strict=True):
            line = {"question_id": record["question_id"], "prompt": record["text"], "text": text}
            file.write(json.dumps({**line, "model_id": model.name}) + "\n")
    words = ["--annotation-file", str(output / "annotations.json"), "--result-file", str(answers)]
    done = subprocess.run(
        [sys.executable, "-m", "llava.eval.eval_textvqa", *words], check=True, stdout=subprocess.PIPE, text=True
    )
    (output / "textvqa.log").write_text(done.stdout, encoding="utf-8")
    print(done.stdout)


if __name__ == "__main__":
    main()
