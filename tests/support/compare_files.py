"""Small training and evaluation outputs, written as their makers write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_vista.tools.compare.comparison import Comparison, compare
from llava_vista.tools.compare.score_rows import ScoreRow

#: What both generations of lmms-eval write as doc_hash: that of a field which they never fill.
NULL_HASH = hashlib.sha256(b"null").hexdigest()


#: Right and wrong answers to 100 questions: after has 15 gained and 5 lost.
BEFORE = [1.0] * 50 + [0.0] * 50
AFTER = [1.0] * 45 + [0.0] * 5 + [1.0] * 15 + [0.0] * 35


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write_training(
    folder: Path,
    *,
    vista: Mapping[str, Any] | None = None,
    steps: int = 40,
    ce: Sequence[float] | None = None,
    arguments: Mapping[str, Any] | None = None,
    in_checkpoint: int | None = None,
    **state: Any,
) -> Path:
    """A finished training. ``vista`` are its options; ``arguments`` go into vista.json as the host's."""
    folder.mkdir(parents=True)
    values = ce or [1.0 + 1.0 / (1 + step) for step in range(steps)]
    log = []
    for step, value in enumerate(values, start=1):
        record = {"loss": value, "learning_rate": 2e-5 * (1 - step / steps), "epoch": step / steps, "step": step}
        if vista is not None:
            weight = vista.get("weight", 1.0)
            term = 0.5 - 0.002 * step
            record.update(
                loss=value + weight * term, ce_loss=value, vista_loss=term, vista_similarity=-2 * term,
                vista_aligned_samples=16,
            )  # fmt: skip
        log.append(record)
    log.append({"train_runtime": 3.5, "train_loss": 1.2, "total_flos": 1e9, "step": steps})
    content = {
        "log_history": log, "global_step": steps, "max_steps": steps, "num_train_epochs": 1, "train_batch_size": 16,
        "total_flos": 1e9, **state,
    }  # fmt: skip
    place = folder / f"checkpoint-{in_checkpoint}" if in_checkpoint else folder
    place.mkdir(exist_ok=True)
    (place / "trainer_state.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama", "hidden_size": 64}))
    if vista is not None:
        record = {
            "config": {"method": "l2", "weight": 1.0, "position_weighting": "linear", "text_scope": "all", **vista},
            "world_size": 2,
            "versions": {"torch": "2.1.2", "transformers": "4.37.2", "llava-vista": "0.1.0"},
        }
        if arguments is not None:
            record["training_arguments"] = {
                "seed": 42, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "learning_rate": 2e-5,
                "output_dir": str(folder), **arguments,
            }  # fmt: skip
            record["data"] = {"data_path": "mix665k.json", "samples": 640}
        (folder / "vista.json").write_text(json.dumps(record))
    return folder


def entry_mean(scores: Sequence[Any]) -> float:
    return sum(scores) / len(scores)


def write_lmms(
    folder: Path,
    tasks: Mapping[str, Mapping[str, tuple[float, Sequence[Any] | None]]],
    *,
    layout: str = "0.3",
    date: str = "20260101_120000",
    model: str = "llava-v1.5-7b",
    limit: float | None = None,
    questions: int | None = None,
    ocr: bool = False,
    prompt: str = "What is in picture {}?",
    lower: Sequence[str] = (),
    filter_name: str = "none",
    answer: str = "x",
    config: Mapping[str, Any] | None = None,
    task_config: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """An output directory of lmms-eval: ``{task: {metric: (reported value, per-question entries)}}``.

    ``config`` and ``task_config`` change the run's and every task's configuration, ``changes`` the results file.
    """
    place = folder / model
    place.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    sizes = {}
    for task, metrics in tasks.items():
        results[task] = {"alias": task}
        count = next((len(entries) for _, entries in metrics.values() if entries is not None), questions or 100)
        sizes[task] = {"original": 5000, "effective": count}
        for metric, (value, _) in metrics.items():
            results[task][f"{metric},{filter_name}"] = value
            results[task][f"{metric}_stderr,{filter_name}"] = "N/A"
            if layout == "0.7":
                results[task][f"{metric}_stderr_clt,{filter_name}"] = 0.01
                results[task][f"{metric}_stderr_clustered,{filter_name}"] = "N/A"
        results[task]["submission,none"] = None
        if layout == "0.7":
            results[task]["samples"] = count
        logged = {metric: entries for metric, (_, entries) in metrics.items() if entries is not None}
        if logged:
            lines = [
                _line(layout, doc, prompt.format(doc), answer, {metric: of[doc] for metric, of in logged.items()})
                for doc in range(count)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (place / f"{date}_samples_{task}.jsonl").write_text(text)
    run: dict[str, Any] = {"model": "llava", "model_args": f"pretrained=x/{model}", "limit": limit, "gen_kwargs": ""}
    content: dict[str, Any] = {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {
                "task": task, "dataset_path": f"lmms-lab/{task}", "generation_kwargs": {"max_new_tokens": 16},
                "lmms_eval_specific_kwargs": {"pre_prompt": "", "ocr": ocr}, "repeats": 1, **(task_config or {}),
            }
            for task in tasks
        },
        "versions": {task: "Yaml" for task in tasks},
        "n-shot": {task: 0 for task in tasks},
        "higher_is_better": {
            task: {metric: metric not in lower for metric in metrics} for task, metrics in tasks.items()
        },
        "n-samples": sizes,
        "config": run,
        "git_hash": "abc1234",
        "date": date,
    }  # fmt: skip
    if layout == "0.7":
        run |= {"offset": 0, "model_backend": "lmms_eval.models.simple.llava.Llava (simple)"}
        content |= {"lmms_eval_version": "main@abc1234", "git_branch": "main", "usage": {}}
    run |= config or {}
    content |= {"model_source": "llava", "model_name": f"x/{model}", "system_instruction_sha": None, **changes}
    (place / f"{date}_results.json").write_text(json.dumps(content, indent=2))
    return folder


def _line(layout: str, doc: int, prompt: str, answer: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    line: dict[str, Any] = {"doc_id": doc, "target": f"answer {doc}", "doc_hash": NULL_HASH, "input": prompt}
    if layout == "0.3":
        line |= {
            "doc": {"question": prompt}, "arguments": {"max_new_tokens": 16}, "resps": [[answer]],
            "filtered_resps": [answer], "prompt_hash": sha(prompt), "target_hash": sha(f"answer {doc}"),
        }  # fmt: skip
    else:
        line |= {"filtered_resps": answer, "token_counts": [None]}
    return line | {key: value for key, value in metrics.items() if value is not None}


POPE_LOG = """Category: {0}, # samples: 100
TP\tFP\tTN\tFN\t
40\t10\t40\t10
Accuracy: 0.8
Precision: 0.8
Recall: 0.8
F1 score: {1}
Yes ratio: 0.5
{1}, 0.800, 0.800, 0.800, 0.500
====================================
"""


def write_llava(
    folder: Path,
    *,
    right: Sequence[bool] = (True, True, False, True),
    f1: tuple[float, float, float] = (0.85, 0.86, 0.87),
    textvqa: float = 58.21,
    mme: float = 1510.7,
    gqa: float = 61.98,
) -> Path:
    """What LLaVA's own scripts leave: ScienceQA's files, and the logs of the others."""
    (folder / "scienceqa").mkdir(parents=True)
    (folder / "logs").mkdir()
    items = [
        {"question_id": str(number), "parsed_ans": "A", "ground_truth": "A", "question": f"Q{number}", "pred": "A",
         "is_multimodal": True}
        for number in range(len(right))
    ]  # fmt: skip
    accuracy = 100 * sum(right) / len(right)
    (folder / "scienceqa" / "llava-v1.5-7b_result.json").write_text(
        json.dumps({"acc": accuracy, "correct": sum(right), "count": len(right), "results": {"0": 0}, "outputs": {}})
    )
    split = {
        name: [item for item, good in zip(items, right, strict=True) if good == wanted]
        for name, wanted in (("correct", True), ("incorrect", False))
    }
    (folder / "scienceqa" / "llava-v1.5-7b_output.jsonl").write_text(json.dumps(split, indent=2))
    (folder / "logs" / "sqa.log").write_text(
        f"Total: {len(right)}, Correct: {sum(right)}, Accuracy: {accuracy:.2f}%, IMG-Accuracy: {accuracy:.2f}%\n"
    )
    (folder / "logs" / "pope.log").write_text(
        "".join(
            POPE_LOG.format(name, value) for name, value in zip(("adversarial", "popular", "random"), f1, strict=True)
        )
    )
    (folder / "logs" / "textvqa.txt").write_text(f"llava-v1.5-7b\nSamples: 5000\nAccuracy: {textvqa}%\n\n")
    (folder / "logs" / "mme.log").write_text(
        f"=========== Perception ===========\ntotal score: {mme} \n\n\t existence  score: 190.0\n\n"
        "=========== Cognition ===========\ntotal score: 348.2 \n\n\t code_reasoning  score: 57.5\n"
    )
    (folder / "logs" / "gqa.log").write_text(
        f"Binary: 79.10%\nOpen: 47.30%\nAccuracy: {gqa:.2f}%\nValidity: 0.00%\nPlausibility: 0.00%\n"
        "Distribution: 1.42 (lower is better)\n"
    )
    return folder


def scored(entries: list) -> tuple[float, list]:
    return entry_mean(entries), entries


def arms(tmp_path: Path, before: dict, after: dict, **options) -> Comparison:
    """Both arms by lmms-eval; ``before_*`` and ``after_*`` options go to one of them."""
    own = {side: {key[len(side) :]: value for key, value in options.items() if key.startswith(side)}
           for side in ("before_", "after_")}  # fmt: skip
    common = {key: value for key, value in options.items() if not key.startswith(("before_", "after_"))}
    baseline = write_lmms(tmp_path / "base", before, **common, **own["before_"])
    vista = write_lmms(tmp_path / "vista", after, **common, **own["after_"])
    return compare([str(baseline)], [str(vista)])


def row(result: Comparison, task: str, metric: str | None = None) -> ScoreRow:
    found = [item for item in result.scores.rows if item.task == task and metric in (None, item.metric)]
    assert len(found) == 1, [(item.task, item.metric) for item in result.scores.rows]
    return found[0]
