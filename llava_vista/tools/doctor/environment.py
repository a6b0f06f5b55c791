"""This environment: versions, the start-up hook, LLAVA_VISTA, and the hosts that are installed."""

from __future__ import annotations

import site
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...config import ENVIRONMENT_VARIABLE, FLAG, read_environment, resolve
from ...errors import ConfigError, VistaError
from ...hooks.run_record import versions
from ..kit.fresh_interpreter import imported_at_start
from ..kit.host_source import defines_method, find_class, package_folders
from .report import Section

if TYPE_CHECKING:
    from ...adapters import Adapter

PTH_FILE = "llava_vista.pth"
#: Also reported, beside what a run's vista.json records.
_ALSO = ("llava", "einops", "sentencepiece", "tokenizers", "timm", "torchvision", "flash-attn", "bitsandbytes")
_WITHOUT_HOOK = (
    "Start training with `python -m llava_vista SCRIPT ARGS...` in place of `python SCRIPT ARGS...`, or call "
    "llava_vista.install() at the top of the script; installing llava-vista with pip into this environment brings the "
    "hook."
)


class TorchState(NamedTuple):
    """Whether torch can be imported (``trouble`` is empty), and whether it was built without CUDA."""

    trouble: str
    cpu_build: bool = False


def torch_state() -> TorchState:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        return TorchState(f"torch cannot be imported ({error})")
    return TorchState("", not torch.backends.cuda.is_built())


def found_versions() -> dict[str, str]:
    """Versions of everything that matters to a run, as ``vista.json`` records them, and of a few more."""
    found = versions()
    for package in _ALSO:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def report_versions(section: Section, versions: Mapping[str, str], torch: TorchState) -> None:
    section.plain("environment", sys.prefix)
    for package, version in versions.items():
        section.ok(package, version)
    if torch.trouble:
        section.wrong("torch", f"{torch.trouble}: nothing can be trained here. Install torch 2.0 or newer.")
    elif torch.cpu_build:
        section.note("torch", "a build without CUDA: training runs on the CPU")
    if not torch.trouble and "transformers" not in versions:
        section.note(
            "transformers",
            f"not installed: --{FLAG} and {ENVIRONMENT_VARIABLE} act on its Trainer; only attach() works without it",
        )


def find_pth() -> list[Path]:
    """The start-up files of llava-vista in the folders where Python looks for such."""
    folders = [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
    return [path for folder in folders if (path := Path(folder, PTH_FILE)).is_file()]


def report_startup(section: Section) -> None:
    """Whether the hook is there, and works: tried in fresh interpreters."""
    paths = find_pth()
    if paths:
        section.ok(PTH_FILE, str(paths[0]))
    else:
        section.note(PTH_FILE, f"not in any site folder of {sys.executable}")
    live = True
    for label, value, arguments in ((f"{ENVIRONMENT_VARIABLE}=1", "1", ()), (f"--{FLAG}", None, (f"--{FLAG}",))):
        modules, complaint = imported_at_start(value, *arguments)
        if "llava_vista.hooks" in modules:
            section.ok(label, "the hook is live in a fresh Python")
        else:
            live = False
            section.wrong(label, f"does nothing in a fresh Python{f' ({complaint})' if complaint else ''}")
    if not live:
        section.plain("what to do", _WITHOUT_HOOK)
    modules, _ = imported_at_start(None)
    if modules:
        section.wrong(
            "neither", f"imports {', '.join(modules)} all the same; nothing should be. Reinstall llava-vista."
        )
    else:
        section.ok("neither", "nothing of llava_vista is imported")


def report_request(section: Section, value: str | None, torch_works: bool) -> None:
    """What LLAVA_VISTA holds, and what comes of it."""
    if value is None:
        section.plain(ENVIRONMENT_VARIABLE, f"not set: VISTA is on where --{FLAG} is given, and off elsewhere")
        return
    try:
        on, options = read_environment(value)
        if on is None:
            section.plain(ENVIRONMENT_VARIABLE, f"{value!r}: empty, as if not set")
            return
        # The estimators and weightings that the values are checked against need torch.
        config = resolve(environment=value).config if torch_works else None
    except ConfigError as error:
        section.wrong(
            ENVIRONMENT_VARIABLE,
            f"{value!r} is not valid: {error} (What a program registers itself is known in that program only.)",
        )
        return
    if config is not None:
        options = config.to_dict()
    section.ok(ENVIRONMENT_VARIABLE, f"{value!r} switches VISTA {'on' if on else 'off'}")
    for name, setting in options.items():
        section.plain(f"  {name}", str(setting))


def known_adapters(section: Section) -> list[Adapter]:
    """All adapters. One of another package that cannot be loaded is reported, and left out."""
    from ...adapters import ADAPTERS, all_adapters

    try:
        return all_adapters()
    except (ImportError, AttributeError, VistaError) as error:
        section.wrong(
            "adapters",
            f"an installed package's adapter cannot be loaded ({error}); attaching to any model will fail. "
            "Mend or uninstall that package.",
        )
        return [cls() for cls in ADAPTERS]


def host_packages(adapters: Iterable[Adapter]) -> list[str]:
    """The top-level packages that adapters know classes of."""
    return sorted({qualified.partition(".")[0] for adapter in adapters for qualified in adapter.classes})


def _by_merge_method(
    present: list[tuple[str, str]], methods: Mapping[str, str], folders: Sequence[Path]
) -> list[tuple[str, str]]:
    """Where several adapters know classes of a package (hosts share names), those whose merge method it defines."""
    if len({name for name, _ in present}) < 2:
        return present
    defined = {name for name, _ in present if any(defines_method(folder, methods[name]) for folder in folders)}
    return [(name, qualified) for name, qualified in present if name in defined] or present


def report_hosts(section: Section, adapters: Sequence[Adapter]) -> tuple[frozenset[str], frozenset[str]]:
    """Which hosts could be imported (none is), and which adapter their classes get.

    Returns:
        The packages and the names of the model classes that are there.
    """
    hosts, classes = set(), set()
    for package in host_packages(adapters):
        folders = package_folders(package)
        if not folders:
            section.plain(package, "not installed")
            continue
        known = [
            (adapter.name, qualified)
            for adapter in adapters
            for qualified in adapter.classes
            if qualified.partition(".")[0] == package
        ]
        present = _by_merge_method(
            [(name, qualified) for name, qualified in known if find_class(folders, qualified)],
            {adapter.name: adapter.merge_method for adapter in adapters},
            folders,
        )
        if not present:
            section.note(package, f"{folders[0]} has none of the classes that adapters know under that name")
            continue
        hosts.add(package)
        section.ok(package, str(folders[0]))
        for name, qualified in present:
            classes.add(qualified.rpartition(".")[2])
            section.ok(f"  adapter {name}", qualified)
        for name, qualified in known:
            if (name, qualified) not in present:
                section.plain(f"  adapter {name}", f"{qualified} is not in this version")
    for adapter in adapters:
        if not adapter.classes:
            section.plain(f"adapter {adapter.name}", "decides by a rule of its own on the live model")
    return frozenset(hosts), frozenset(classes)
