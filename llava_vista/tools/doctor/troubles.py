"""Known trouble: what goes wrong with which versions or sources, whose fault it is, and what to do.

A row is added here when something was seen to fail; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

#: Names that a host's source is checked for: read in a file that does not import them.
SUSPECT_NAMES = ("DebugOption",)


@dataclass(frozen=True)
class Situation:
    """What a trouble can depend on."""

    versions: Mapping[str, str]
    #: torch was built without CUDA
    cpu_build: bool = False
    #: top-level packages of hosts: installed, or in the checkout
    hosts: frozenset[str] = frozenset()
    #: model classes that are there
    classes: frozenset[str] = frozenset()
    #: the class of the checkpoint that was asked about
    asked: frozenset[str] = frozenset()
    #: parameters of the checkout's merge methods
    merge_parameters: frozenset[str] = frozenset()
    #: those of SUSPECT_NAMES that would end as a NameError, with the place
    unbound: Mapping[str, str] = field(default_factory=dict)

    def series(self, package: str, series: str) -> bool:
        """Whether ``package`` is there in that series: 0.19.8 is of series 0.19."""
        wanted = release(series)
        return package in self.versions and release(self.versions[package])[: len(wanted)] == wanted

    def below(self, package: str, version: str) -> bool:
        return package in self.versions and release(self.versions[package]) < release(version)

    def at_least(self, package: str, version: str) -> bool:
        return package in self.versions and release(self.versions[package]) >= release(version)

    def llava(self) -> str | None:
        """The version of LLaVA that is installed, under either of its names."""
        return self.versions.get("llava-torch") or self.versions.get("llava")


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 13, 0) for "2.13.0+cpu"."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _never(situation: Situation) -> bool:
    return False


def _always(situation: Situation) -> bool:
    return True


@dataclass(frozen=True)
class Trouble:
    """One row: when it applies, what happens, what to do, and whether it stops what was asked for."""

    label: str
    when: Callable[[Situation], bool]
    message: str
    remedy: str
    stops: Callable[[Situation], bool] = _never


TROUBLES = (
    Trouble(
        "torch",
        lambda s: s.below("torch", "2.0"),
        "older than 2.0, the oldest that llava-vista supports.",
        "Use torch 2.0 or newer.",
    ),
    Trouble(
        "transformers",
        lambda s: s.below("transformers", "4.37") and not s.hosts & {"share4v", "videollava"},
        "older than 4.37, the oldest that llava-vista supports.",
        "Use the version that the host asks for, if it is 4.37 or newer (LLaVA: 4.37.2).",
    ),
    Trouble(
        "transformers",
        lambda s: s.at_least("transformers", "5") and "llava" in s.hosts,
        "LLaVA was written for 4.37.2 (LLaVA-NeXT: 4.40.2, VILA: 4.46.0); its trainer cannot even be imported with "
        "5.x, with or without VISTA.",
        "pip install 'transformers==4.37.2' (or what the host's own pyproject.toml asks for).",
        stops=_always,
    ),
    Trouble(
        "transformers",
        lambda s: (
            release(s.llava() or "")[:2] == (1, 2)
            and "transformers" in s.versions
            and not s.series("transformers", "4.37")
            and s.below("transformers", "5")
        ),
        "LLaVA 1.2 was written for, and VISTA tried on it with, transformers 4.37.2.",
        "If it fails without --vista too, pip install 'transformers==4.37.2'.",
    ),
    Trouble(
        "LLaVA-MPT",
        lambda s: "LlavaMptForCausalLM" in s.classes | s.asked,
        "LlavaMptForCausalLM.forward is broken upstream (found in LLaVA 1.2.2): it calls its own merge method with one "
        "argument too few (`images` missing), so it cannot train, with or without VISTA.",
        "Use a Llama or Mistral one, or mend its forward.",
        stops=lambda s: "LlavaMptForCausalLM" in s.asked,
    ),
    Trouble(
        "LLaVA-NeXT",
        lambda s: "DebugOption" in s.unbound,
        "the trainer's _inner_training_loop, a copy of transformers' own, reads DebugOption and many more names "
        "without importing them and ends with a NameError, with or without VISTA.",
        "In LLaVA-NeXT use a commit before 45f2d92 (June 2025, MeZO), which brought that loop.",
        stops=_always,
    ),
    Trouble(
        "LLaVA-NeXT",
        lambda s: "modalities" in s.merge_parameters,
        'the merge method\'s default modalities=["image"] collapses a batch of several samples, and the Mistral and '
        "Gemma classes pass image_sizes in its place.",
        "Give one modality per sample.",
    ),
    Trouble(
        "TinyLLaVA",
        lambda s: s.at_least("python", "3.11") and "tinyllava" in s.hosts,
        "TinyLLaVA Factory's main branch cannot be imported on Python 3.11 or newer (mutable dataclass default).",
        "Use Python 3.10.",
        stops=_always,
    ),
    Trouble(
        "TinyLLaVA",
        lambda s: "tinyllava" in s.hosts,
        "TinyLLaVA Factory does not run without a process group.",
        "Launch it with deepspeed or torchrun, also on one device.",
    ),
    Trouble(
        "transformers",
        lambda s: s.at_least("transformers", "4.37") and bool(s.hosts & {"share4v", "videollava"}),
        "ShareGPT4V and Video-LLaVA were written for 4.31.0: what they import from it is gone in 4.37 "
        "(ShardedDDPOption, _expand_mask).",
        "pip install 'transformers==4.31.0' 'tokenizers<0.14'; VISTA was tried with it on both.",
        stops=_always,
    ),
    Trouble(
        "MoE-LLaVA",
        lambda s: "moellava" in s.hosts,
        "a layer tells that it has experts by len() == 3, which a batch of three samples has too: training with "
        "experts on such a batch fails in the host, with or without VISTA.",
        "Use another batch size than 3 per device.",
    ),
    Trouble(
        "deepspeed",
        lambda s: s.series("deepspeed", "0.19") and s.series("transformers", "4.37"),
        "0.19 fails in ZeRO-3 with transformers 4.37 (mixed dtypes); ZeRO-2 runs.",
        "For ZeRO-3: pip install 'deepspeed==0.15.4' (0.14.4 works too).",
    ),
    Trouble(
        "deepspeed",
        lambda s: "deepspeed" in s.versions and s.cpu_build and "llava" in s.hosts,
        "under DeepSpeed LLaVA's save path calls torch.cuda.synchronize(), which this CPU build of torch refuses: "
        "training runs, saving its result fails.",
        "Train on a CUDA build of torch, or without DeepSpeed.",
    ),
    Trouble(
        "accelerate",
        lambda s: s.series("accelerate", "0.21") and s.cpu_build,
        "0.21 insists on NCCL, which a CPU build of torch does not have, so several processes do not start.",
        "pip install 'accelerate==0.34.2'.",
    ),
    Trouble(
        "peft",
        lambda s: s.series("peft", "0.10"),
        "0.10 calls the inner model's forward directly, past any hook on it. Under a Trainer (--vista) that does not "
        "matter.",
        "In a training loop of your own wrap with PEFT first, then attach(peft_model).",
    ),
    Trouble(
        "torchvision",
        lambda s: (
            "+cpu" in s.versions.get("torch", "")
            and "torchvision" in s.versions
            and "+cpu" not in s.versions["torchvision"]
        ),
        "torchvision from PyPI breaks a CPU build of torch, and with it timm, which imports it.",
        "Uninstall it, or take both from the same index (https://download.pytorch.org/whl/cpu).",
    ),
)
