"""Three trainings of a host's own entry script (no VISTA, weight 0, VISTA), and what must hold of them; then, if asked
for, the conformance kit (`conformance`) and the probe on the checkpoints that came out (`probe`)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import parts
import probe
import torch
from conformance import REPORT
from safetensors.torch import load_file
from scratch_site import FIXES
from table import COMMON_FLAGS, HOSTS, Host
from transformers import TrainingArguments

HERE = Path(__file__).parent
#: The log rounds to four digits.
ROUNDING = 2e-4
ARMS = {"baseline": [], "weight 0": ["--vista", "--vista_weight", "0"], "vista": ["--vista"]}
State = dict[str, dict[str, torch.Tensor]]


class Failed(Exception):
    """A check did not hold, or a run did not end well."""


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


def train(host: Host, checkout: Path, work: Path, paths: dict[str, str], arm: str) -> Path:
    """One run of the entry script; returns its output folder."""
    output = work / arm.replace(" ", "-")
    shutil.rmtree(output, ignore_errors=True)  # of an earlier run in this folder: hosts would resume from it
    on_cpu = "--use_cpu True" if hasattr(TrainingArguments, "use_cpu") else "--no_cuda True"
    flags = f"{COMMON_FLAGS} {host.flags}".format(output=output, repo=HERE.parents[1], on_cpu=on_cpu, **paths).split()
    command = [sys.executable, str(checkout / host.entry), *flags, *ARMS[arm]]
    recording = {}
    if arm == "baseline":
        shutil.rmtree(batches_of(work), ignore_errors=True)
        batches_of(work).mkdir()
        recording["HOST_BATCHES"] = str(batches_of(work))
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={
            **environment(host, checkout, scratch_folder(work), paths),
            **process_group(host.process_group),
            **recording,
        },
        cwd=work / "parts" / "tower",
        timeout=1200,
        check=False,
    )
    (work / f"{output.name}.log").write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        raise Failed(f"{arm}: exit code {done.returncode}\n{done.stdout[-3000:]}")
    if "tokenization mismatch" in done.stdout:
        raise Failed(f"{arm}: the host reports a tokenization mismatch, see {work}/{output.name}.log")
    return output


def conformance(name: str, host: Host, checkout: Path, work: Path, paths: dict[str, str]) -> str:
    """The conformance kit on the host's classes, in the host's environment; returns what it printed."""
    listed = work / "parts.json"
    listed.write_text(json.dumps(paths), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(HERE / "conformance.py"), name, str(listed)],
        capture_output=True,
        text=True,
        env={**environment(host, checkout, scratch_folder(work), paths), **process_group(True)},
        cwd=work / "parts" / "tower",
        timeout=1200,
        check=False,
    )
    (work / "conformance.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    lines = done.stdout.splitlines()
    told = "\n".join(f"    {line.removeprefix(REPORT)}" for line in lines if line.startswith(REPORT))
    if done.returncode:
        raise Failed(f"conformance kit:\n{told}\n{done.stderr[-1500:]}")
    return told


def probed(host: Host, checkout: Path, work: Path, paths: dict[str, str], outputs: dict[str, Path]) -> str:
    """The probe on the baseline and VISTA, in the host's environment and without a process group, as a user runs it."""
    settings = work / "probe.json"
    settings.write_text(
        json.dumps(
            {
                "checkpoints": [str(outputs["baseline"]), str(outputs["vista"])],
                "training": str(batches_of(work)),
                "data": paths["data"],
                "images": paths["images"],
                "output": str(work / "probe"),
                "template": host.template,
                "base": paths["llm"] if host.adds_to_base else None,
                "layers": parts.LAYERS,
            }
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(HERE / "probe.py"), str(settings)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(host, checkout, scratch_folder(work), paths),
        cwd=work / "parts" / "tower",
        timeout=1200,
        check=False,
    )
    (work / "probe.log").write_text(done.stdout, encoding="utf-8")
    told = [line.removeprefix(probe.REPORT) for line in done.stdout.splitlines() if line.startswith(probe.REPORT)]
    if done.returncode or not told:
        raise Failed(f"probe: {' '.join(told) or done.stdout[-3000:]}")
    return told[0]


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


def check(logs: dict[str, list[dict[str, Any]]], states: dict[str, State]) -> str:
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
    first, last = with_term[0], with_term[-1]
    same = "loss, gradient norm and saved weights" if "grad_norm" in last else "loss and saved weights"
    return (
        f"{len(logs['vista'])} steps, {aligned} aligned samples, vista {first['vista_loss']:.4f} -> "
        f"{last['vista_loss']:.4f}, last loss {last['loss']:.4f} = ce {last['ce_loss']:.4f} + vista "
        f"{last['vista_loss']:.4f}; weight 0: {same} bit-identical to the baseline; "
        f"{count} saved keys, the baseline's"
    )


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
    title = f"{arguments.name}{f' ({arguments.variant})' if arguments.variant else ''} {commit_of(checkout)}"
    title += f", transformers {metadata.version('transformers')}, {host.entry}"
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
        if not arguments.no_conformance:
            print("  conformance kit on the host's classes:", flush=True)
            print(conformance(arguments.name, host, checkout, work, paths))
        if arguments.probe:
            print("  llava-vista probe on baseline and vista:", flush=True)
            print(f"    {probed(host, checkout, work, paths, outputs)}")
    except Failed as error:
        print(f"FAILED {title}: {error}")
        return 1
    print(f"OK {title}: {figures}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
