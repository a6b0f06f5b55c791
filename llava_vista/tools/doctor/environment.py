"""This environment: versions, the start-up hook and LLAVA_VISTA."""

from __future__ import annotations

import site
import sys
from collections.abc import Mapping
from pathlib import Path

from ...config import ENVIRONMENT_VARIABLE, FLAG, read_environment, resolve
from ...errors import ConfigError
from ...hooks.run_record import versions
from ..kit.fresh_interpreter import imported_at_start
from ..kit.report import Checklist

PTH_FILE = "llava_vista.pth"
#: Also reported, beside what a run's vista.json records.
_ALSO = ("llava", "einops", "sentencepiece", "tokenizers", "timm", "torchvision", "flash-attn", "bitsandbytes")
#: Named in the summary.
_MAIN = ("python", "torch", "transformers", "accelerate", "deepspeed", "peft")
_WITHOUT_HOOK = (
    "Start training with `python -m llava_vista SCRIPT ARGS...` in place of `python SCRIPT ARGS...`, or call "
    "llava_vista.install() at the top of the script; installing llava-vista with pip into this environment brings the "
    "hook."
)


def found_versions() -> dict[str, str]:
    """Return the versions of everything that matters to a run, as ``vista.json`` records them, and of a few more."""
    return versions(
        "llava", "einops", "sentencepiece", "tokenizers", "timm", "torchvision", "flash-attn", "bitsandbytes"
    )


def report_versions(section: Checklist, versions: Mapping[str, str]) -> tuple[str, bool, set[str]]:
    """Add versions and the state of torch.

    Returns:
        The section's summary, whether torch works, and facts for `known_issues`.
    """
    section.plain("environment", sys.prefix)
    for package, version in versions.items():
        section.ok(package, version)
    works, facts = True, set()
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        works, text = False, f"torch cannot be imported ({error}): nothing can be trained here"
        section.wrong("torch", f"{text}. Install torch 2.0 or newer.")
    else:
        if not torch.backends.cuda.is_built():
            facts.add("torch:cpu")
            section.note("torch", "a build without CUDA: training runs on the CPU")
        if "transformers" not in versions:
            section.note("transformers", f"not installed: --{FLAG} acts on its Trainer; only attach() works without it")
    return ", ".join(f"{name} {versions[name]}" for name in _MAIN if name in versions), works, facts


def find_pth() -> list[Path]:
    """Return the start-up files of llava-vista in the folders where Python looks for such."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [path for folder in folders if (path := Path(folder, PTH_FILE)).is_file()]


def report_startup(section: Checklist) -> str:
    """Try the start-up hook in new interpreters, and return the section's summary."""
    if paths := find_pth():
        section.ok(PTH_FILE, str(paths[0]))
    else:
        section.note(PTH_FILE, f"not in any site folder of {sys.executable}")
    dead, why = [], ""
    for label, value, arguments in ((f"{ENVIRONMENT_VARIABLE}=1", "1", ()), (f"--{FLAG}", None, (f"--{FLAG}",))):
        modules, complaint = imported_at_start(value, *arguments)
        if "llava_vista.hooks" in modules:
            section.ok(label, "the hook is live in a fresh Python")
        else:
            dead.append(label)
            why = f" ({complaint})" if complaint else ""
    if dead:
        section.wrong("hook", f"no effect in a fresh Python{why}: {' and '.join(dead)}. {_WITHOUT_HOOK}")
    if modules := imported_at_start(None)[0]:
        section.wrong("neither", f"imports {', '.join(modules)}; nothing should be imported. Reinstall llava-vista.")
    else:
        section.ok("neither", "nothing of llava_vista is imported")
    return f"live in a fresh Python, with {ENVIRONMENT_VARIABLE}=1 and with --{FLAG}"


def report_request(section: Checklist, value: str | None, torch_works: bool) -> str:
    """Add what LLAVA_VISTA asks for, and return the section's summary."""
    try:
        on, options = read_environment(value)
        # The estimators and weightings that the values are checked against need torch.
        config = resolve(environment=value).config if torch_works else None
    except ConfigError as error:
        text = f"{value!r} is not valid: {error} (What a program registers itself is known in that program only.)"
        section.wrong(ENVIRONMENT_VARIABLE, text)
        return ""
    if on is None:
        how = "not set" if value is None else f"{value!r}: empty, as if not set"
        section.plain(ENVIRONMENT_VARIABLE, f"{how}: VISTA is on where --{FLAG} is given, and off elsewhere")
    else:
        section.ok(ENVIRONMENT_VARIABLE, f"{value!r} switches VISTA {'on' if on else 'off'}")
        for name, setting in (options if config is None else config.to_dict()).items():
            section.plain(f"  {name}", str(setting))
    return section.lines[0].text
