"""Three trainings of a host's own entry script (no VISTA, weight 0, VISTA), and what must hold of them; then, if asked
for, the conformance kit (`conformance`) and `llava-vista probe` on what VISTA's training saved (`probe`)."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import parts
import probe
import torch
from conformance import REPORT
from probe import Failed
from safetensors.torch import load_file
from scratch_site import FIXES
from table import COMMON_FLAGS, HOSTS, Host
from transformers import TrainingArguments

HERE = Path(__file__).parent
#: The log rounds to four digits.
ROUNDING = 2e-4
#: What a run leaves in its folder for `results.py`.
RESULT = "result.json"
ARMS = {"baseline": [], "weight 0": ["--vista", "--vista_weight", "0"], "vista": ["--vista"]}
State = dict[str, dict[str, torch.Tensor]]


def commit_of(checkout: Path) -> str:
    if not (checkout / ".git").exists():
        return "commit unknown (no .git)"
    done = subprocess.run(
        ["git", "-C", str(checkout), "log", "-1", "--format=%h of %ad", "--date=short"], capture_output=True, text=True
    )
    changed = subprocess.run(
        ["git", "-C", str(checkout), "diff", "--quiet", "HEAD", "--", "*.py"], capture_output=True
    ).returncode
    return done.stdout.strip() + (" with local changes" if changed else "")


def scratch_folder(work: Path) -> Path:
    """What goes on PYTHONPATH before the checkout."""
    folder = work / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "scratch_site.py", folder / "sitecustomize.py")
    return folder


def environment(host: Host, checkout: Path, scratch: Path, paths: dict[str, str]) -> dict[str, str]:
    wanted = {"placeholders": list(host.placeholders), "fixes": ["seed", *host.fixes]}
    return {
        **{key: value for key, value in os.environ.items() if key != "LLAVA_VISTA"},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{scratch}{os.pathsep}{checkout}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOST_SCRATCH": json.dumps(wanted),
        "WANDB_MODE": "disabled",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        **{key: value.format(**paths) for key, value in host.environment.items()},
    }


def batches_of(work: Path) -> Path:
    """Where the baseline's batches are recorded, for the probe to be compared with."""
    return work / "batches"


def process_group(wanted: bool) -> dict[str, str]:
    """What a launcher gives a single rank; a free port is found for it."""
    if not wanted:
        return {}
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def host_command(host: Host, checkout: Path, output: Path, paths: dict[str, str]) -> list[str]:
    on_cpu = "--use_cpu True" if hasattr(TrainingArguments, "use_cpu") else "--no_cuda True"
    flags = f"{COMMON_FLAGS} {host.flags}".format(output=output, repo=HERE.parents[1], on_cpu=on_cpu, **paths).split()
    return [sys.executable, str(checkout / host.entry), *flags]


def run(command: list[str], log: Path, work: Path, variables: dict[str, str], name: str) -> str:
    """Run a command in the folder of towers, with its output in a log; returns what it printed.

    Raises:
        Failed: it did not end well.
    """
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=variables,
        cwd=work / "parts" / "tower",
        timeout=1800,
        check=False,
    )
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        raise Failed(f"{name}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    return done.stdout


def train(host: Host, checkout: Path, work: Path, paths: dict[str, str], arm: str) -> Path:
    """One run of the entry script; returns its output folder, named as the kind that hosts read from a path."""
    folder = work / arm.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run: hosts would resume from it
    output = folder / host.llm
    recording = {}
    if arm == "baseline":
        shutil.rmtree(batches_of(work), ignore_errors=True)
        batches_of(work).mkdir()
        recording["HOST_BATCHES"] = str(batches_of(work))
    told = run(
        [*host_command(host, checkout, output, paths), *ARMS[arm]],
        work / f"{folder.name}.log",
        work,
        {
            **environment(host, checkout, scratch_folder(work), paths),
            **process_group(host.process_group),
            **recording,
        },
        arm,
    )
    if "tokenization mismatch" in told:
        raise Failed(f"{arm}: the host reports a tokenization mismatch, see {work}/{folder.name}.log")
    return output


def conformance(name: str, host: Host, checkout: Path, work: Path, paths: dict[str, str]) -> list[str]:
    """The conformance kit on the host's classes, in the host's environment; returns a line for each."""
    listed = work / "parts.json"
    listed.write_text(json.dumps(paths), encoding="utf-8")
    told = run(
        [sys.executable, str(HERE / "conformance.py"), name, str(listed)],
        work / "conformance.log",
        work,
        {**environment(host, checkout, scratch_folder(work), paths), **process_group(True)},
        "conformance kit",
    )
    return [line.removeprefix(REPORT) for line in told.splitlines() if line.startswith(REPORT)]


def probed(host: Host, checkout: Path, work: Path, paths: dict[str, str], trained: Path) -> str:
    """What VISTA's training saved, measured in the host's own script; returns the figures."""
    if host.no_probe:
        return f"not run: {host.no_probe}"
    output, unwanted = work / "probe", work / "probe-output" / host.llm
    for folder in (output, unwanted.parent):
        shutil.rmtree(folder, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "llava_vista.cli", "probe", "--output", str(output)),
        *("--batches", str(probe.ALL_BATCHES), "--", *host_command(host, checkout, unwanted, paths)),
        *host.trained.format(trained=trained).split(),
    ]
    variables = {**environment(host, checkout, scratch_folder(work), paths), **process_group(host.process_group)}
    try:
        run(command, work / "probe.log", work, variables, "probe")
    except Failed:
        refused = re.search(r"ProbeError: (.*)", (work / "probe.log").read_text(encoding="utf-8"))
        if refused is None:
            raise
        return f"refused: {refused[1].partition(': ')[0]}"
    if saved(unwanted):
        raise Failed(f"probe: the script saved weights to {unwanted}")
    return probe.figures(output, batches_of(work))


def records(output: Path) -> list[dict[str, Any]]:
    files = sorted(output.rglob("trainer_state.json"))
    if not files:
        raise Failed(f"{output.name}: no trainer_state.json")
    log = json.loads(files[0].read_text(encoding="utf-8"))["log_history"]
    return [record for record in log if "loss" in record]


def saved(output: Path) -> State:
    """Every tensor that the run saved, by file."""
    found: State = {}
    for path in sorted(output.rglob("*")):
        if path.name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
            continue
        if path.suffix == ".safetensors":
            found[str(path.relative_to(output))] = load_file(path)
        elif path.suffix in (".bin", ".pt"):
            found[str(path.relative_to(output))] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def equal(left: State, right: State) -> bool:
    return all(torch.equal(value, right[file][key]) for file, tensors in left.items() for key, value in tensors.items())


class Figures(NamedTuple):
    """Of the three trainings: logged steps, aligned samples, VISTA's first and last record, saved keys."""

    steps: int
    aligned: int
    first: dict[str, Any]
    last: dict[str, Any]
    keys: int

    def __str__(self) -> str:
        last = self.last
        same = "loss, gradient norm and saved weights" if "grad_norm" in last else "loss and saved weights"
        return (
            f"{self.steps} steps, {self.aligned} aligned samples, vista {self.first['vista_loss']:.4f} -> "
            f"{last['vista_loss']:.4f}, last loss {last['loss']:.4f} = ce {last['ce_loss']:.4f} + vista "
            f"{last['vista_loss']:.4f}; weight 0: {same} bit-identical to the baseline; "
            f"{self.keys} saved keys, the baseline's"
        )


def check(logs: dict[str, list[dict[str, Any]]], states: dict[str, State]) -> Figures:
    """Raise Failed unless everything holds that VISTA promises; returns the figures."""
    keys = {arm: {file: sorted(tensors) for file, tensors in state.items()} for arm, state in states.items()}
    count = sum(len(names) for names in keys["baseline"].values())
    if not count:
        raise Failed("the baseline saved no weights")
    if keys["vista"] != keys["baseline"] or keys["weight 0"] != keys["baseline"]:
        raise Failed("the saved keys differ from the baseline's")
    if not logs["baseline"] or len({len(log) for log in logs.values()}) > 1:
        raise Failed(f"unequal logs: { ({arm: len(log) for arm, log in logs.items()}) }")
    if any("vista_loss" in record for record in logs["baseline"]):
        raise Failed("VISTA acted in the baseline")
    aligned = 0
    for record in logs["vista"]:
        # A batch of text only has no vista_loss.
        wanted = ["ce_loss", "vista_aligned_samples"] + ["vista_loss"] * bool(record.get("vista_aligned_samples"))
        missing = [key for key in wanted if key not in record]
        if missing:
            raise Failed(f"the log lacks {missing}: {record}")
        term = record.get("vista_loss", 0.0)
        if abs(record["loss"] - record["ce_loss"] - term) > ROUNDING * max(1.0, record["loss"]):
            raise Failed(f"loss is not ce_loss + vista_loss: {record}")
        aligned += round(record["vista_aligned_samples"])
    if not aligned:
        raise Failed("no aligned sample")
    first, plain = logs["vista"][0], logs["baseline"][0]
    if abs(first["ce_loss"] - plain["loss"]) > ROUNDING * max(1.0, plain["loss"]):
        raise Failed(f"ce_loss of the first step {first['ce_loss']} is not the baseline's loss {plain['loss']}")
    for record, other in zip(logs["baseline"], logs["weight 0"], strict=True):
        for key in ("loss", "grad_norm", "learning_rate"):
            if record.get(key) != other.get(key):
                raise Failed(f"weight 0: {key} {other.get(key)} differs from the baseline's {record.get(key)}")
    if not equal(states["baseline"], states["weight 0"]):
        raise Failed("weight 0: the saved weights differ from the baseline's")
    if equal(states["baseline"], states["vista"]):
        raise Failed("VISTA changed no weight: its term did not reach the gradients")
    with_term = [record for record in logs["vista"] if "vista_loss" in record]
    return Figures(len(logs["vista"]), aligned, with_term[0], with_term[-1], count)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=HOSTS)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--work", type=Path, help="folder for everything that the run makes")
    parser.add_argument("--variant", help="one of the host's variants in table.py")
    parser.add_argument("--no-conformance", action="store_true", help="leave the exactness checks out")
    parser.add_argument("--probe", action="store_true", help="also run llava-vista probe on what was trained")
    arguments = parser.parse_args()
    host = HOSTS[arguments.name]
    if arguments.variant:
        host = replace(host, **host.variants[arguments.variant])
    checkout = arguments.checkout.resolve()
    work = (arguments.work or Path(tempfile.mkdtemp(prefix=f"host-{host.package}-"))).resolve()
    result: dict[str, Any] = {
        "host": arguments.name,
        "variant": arguments.variant,
        "commit": commit_of(checkout),
        "transformers": metadata.version("transformers"),
        "entry": host.entry,
        "fixes": [FIXES[name][1] for name in host.fixes],
    }
    title = f"{arguments.name}{f' ({arguments.variant})' if arguments.variant else ''} {result['commit']}"
    title += f", transformers {result['transformers']}, {host.entry}"
    print(f"{title}: everything goes to {work}", flush=True)
    if host.process_group:
        print("  started with a process group of one, as a launcher gives it")
    for name in host.fixes:
        print(f"  worked around outside of the host: {FIXES[name][1]}")
    if host.placeholders:
        print(f"  not installed, placeholders that fail on use: {', '.join(host.placeholders)}")
    try:
        if not (checkout / host.entry).is_file():
            raise Failed(f"{checkout} has no {host.entry}: another project, or another version")
        paths = parts.build(work / "parts", host.llm, host.tower, host.config)
        outputs = {}
        for arm in ARMS:
            print(f"  training: {arm}", flush=True)
            outputs[arm] = train(host, checkout, work, paths, arm)
        figures = check(
            {arm: records(output) for arm, output in outputs.items()},
            {arm: saved(output) for arm, output in outputs.items()},
        )
        result["training"] = figures._asdict()
        if not arguments.no_conformance:
            print("  conformance kit on the host's classes:", flush=True)
            result["kit"] = conformance(arguments.name, host, checkout, work, paths)
            print(*(f"    {line}" for line in result["kit"]), sep="\n")
        if arguments.probe:
            print("  llava-vista probe in the host's script, on what VISTA's training saved:", flush=True)
            result["probe"] = probed(host, checkout, work, paths, outputs["vista"])
            print(f"    {result['probe']}")
    except Failed as error:
        result["error"] = str(error)
        print(f"FAILED {title}: {error}")
    else:
        print(f"OK {title}: {figures}")
    (work / RESULT).write_text(json.dumps(result, indent=1), encoding="utf-8")
    return 1 if "error" in result else 0


if __name__ == "__main__":
    sys.exit(main())
