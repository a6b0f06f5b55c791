"""VistaConfig: the one list of options, where each can be set, and how contradictions are settled."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ConfigError, RegistryError
from .registry import Registry

ENVIRONMENT_VARIABLE = "LLAVA_VISTA"
FLAG = "vista"
FLAG_PREFIX = "vista_"

#: Estimators of I(x_t, S_n) and weightings of text positions; filled by `llava_vista.objective`.
ESTIMATORS: Registry[Any] = Registry("VISTA method", builtin="llava_vista.objective.estimators")
WEIGHTINGS: Registry[Any] = Registry("position weighting", builtin="llava_vista.objective.weightings")

TEXT_SCOPES = ("all", "answer")
ON_NONFINITE = ("stop", "skip")
_ON = frozenset({"1", "true", "yes", "on", "t", "y"})
_OFF = frozenset({"", "0", "false", "no", "off", "f", "n"})


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class VistaConfig:
    """What VISTA does. Each field is also a flag ``--vista_<field>`` and a key of ``LLAVA_VISTA``.

    The loss is ``cross-entropy + weight * L_VISTA`` with
    ``L_VISTA = -(1/m) sum_t omega(t, m) I(x_t, S_n)`` (arXiv 2505.10917; `llava_vista.objective`).

    Raises:
        ConfigError: a value is unknown or out of range; the message lists what is allowed.
    """

    method: str = _option(
        "l2", "estimator of I(x_t, S_n): l2 (published default), cosine (published), infonce, or a registered one"
    )
    weight: float = _option(1.0, "factor on the VISTA loss (published: 1); 0 observes without training on it")
    position_weighting: str = _option(
        "linear", "omega(t, m): linear = t/m (published, later text counts more), uniform = 1"
    )
    text_scope: str = _option("all", "text tokens that count: all (published) or answer (supervised tokens only)")
    temperature: float = _option(0.1, "temperature of contrastive estimators (infonce)")
    detach_text: bool = _option(False, "no gradient into the text embeddings, also where the table trains")
    on_nonfinite: str = _option(
        "stop", "when the VISTA loss is not finite: stop the run, or skip that batch's term and count it in the log"
    )
    any_objective: bool = _option(
        False, "also beside losses that are not cross-entropy (DPO, KTO, GRPO), where VISTA acts on every answer alike"
    )
    probe_steps: int = _option(
        0, "every so many steps, log what the image adds to the supervised tokens, by one more decoder pass; 0 = never"
    )

    def __post_init__(self) -> None:
        for registry, name in ((ESTIMATORS, self.method), (WEIGHTINGS, self.position_weighting)):
            try:
                registry.check(name)
            except RegistryError as error:
                raise ConfigError(str(error)) from error
        for name in ("weight", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ConfigError(f"VISTA {name} must be a number, got {value!r}.")
            if not math.isfinite(value) or value < 0:
                raise ConfigError(f"VISTA {name} must be finite and not negative, got {value!r}.")
            object.__setattr__(self, name, float(value))
        if self.temperature == 0:
            raise ConfigError("VISTA temperature must be above 0.")
        if isinstance(self.probe_steps, bool) or not isinstance(self.probe_steps, int) or self.probe_steps < 0:
            raise ConfigError(f"VISTA probe_steps must be a whole number, 0 or more, got {self.probe_steps!r}.")
        for name in ("detach_text", "any_objective"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"VISTA {name} must be true or false, got {getattr(self, name)!r}.")
        for name, value, allowed in (
            ("text_scope", self.text_scope, TEXT_SCOPES),
            ("on_nonfinite", self.on_nonfinite, ON_NONFINITE),
        ):
            if value not in allowed:
                raise ConfigError(f"unknown VISTA {name} {value!r}; known: {', '.join(allowed)}.")

    @classmethod
    def from_arguments(cls, arguments: Any) -> VistaConfig:
        """From an object with attributes ``vista_<option>``: a host's own arguments. What it lacks has its default.

        Raises:
            ConfigError: a value is unknown or out of range.
        """
        given: dict[str, Any] = {
            name: getattr(arguments, f"{FLAG_PREFIX}{name}", option.default) for name, option in OPTIONS.items()
        }
        return cls(**given)

    def describe(self) -> str:
        """Return the main options, and the others where they are not the default, as ``name=value`` words."""
        main = ("method", "weight", "position_weighting", "text_scope")
        values = self.to_dict()
        shown = [name for name in values if name in main or values[name] != OPTIONS[name].default]
        return " ".join(f"{name}={values[name]}" for name in shown)

    def to_dict(self) -> dict[str, Any]:
        """The options as plain values, as written to ``vista.json``."""
        return dataclasses.asdict(self)


OPTIONS = {option.name: option for option in dataclasses.fields(VistaConfig)}


def read_switch(value: Any, where: str) -> bool:
    """Read an on/off value as `HfArgumentParser` does (true/false, yes/no, 1/0, ...).

    Raises:
        ConfigError: neither on nor off.
    """
    text = str(value).strip().lower()
    if text in _ON:
        return True
    if text in _OFF:
        return False
    raise ConfigError(f"{where} must be true or false, got {value!r}.")


def _read_option(name: str, value: Any, where: str) -> Any:
    """Turn text (from a command line, the environment or YAML) into the option's type."""
    if name not in OPTIONS:
        nearest = _nearest(name, OPTIONS) or "."
        raise ConfigError(f"{where}: unknown VISTA option {name!r}{nearest} Known: {', '.join(OPTIONS)}.")
    kind: type = type(OPTIONS[name].default)
    if kind is bool:
        return read_switch(value, f"{where}: VISTA {name}")
    if kind in (int, float) and not isinstance(value, (bool, float)):  # a YAML file gives numbers
        try:
            return kind(value)
        except (TypeError, ValueError) as error:
            noun = "a number" if kind is float else "a whole number"
            raise ConfigError(f"{where}: VISTA {name} must be {noun}, got {value!r}.") from error
    return value


def vista_key(word: str) -> str | None:
    """Return the key that a flag or configuration key is: ``vista`` or ``vista_<option>``; None when it is not VISTA's.

    Hyphens count as underscores, and a flag's value after ``=`` is left out.
    """
    key = word.lstrip("-").partition("=")[0].replace("-", "_")
    return key if key == FLAG or (key.startswith(FLAG_PREFIX) and key[len(FLAG_PREFIX) :] in OPTIONS) else None


def misspelt(words: Iterable[str]) -> str | None:
    """Return what to say of the first flag or key that is unknown and resembles one of VISTA's; None for none."""
    for word in words:
        dashes = word[: len(word) - len(word.lstrip("-"))]
        key = word.lstrip("-").partition("=")[0].replace("-", "_")
        if key == f"no_{FLAG}":
            return f"{word} is not known; {dashes}{FLAG} False switches VISTA off."
        known = [FLAG, *(f"{FLAG_PREFIX}{name}" for name in OPTIONS)]
        nearest = _nearest(key, known, dashes)
        if key.startswith(FLAG) and key not in known and nearest:
            return f"{word} is not known{nearest}"
    return None


def _nearest(name: str, known: Iterable[str], dashes: str = "") -> str:
    import difflib  # only for a mistake: this module is imported at start-up

    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {dashes}{found[0]}?" if found else ""


def read_environment(value: str | None) -> tuple[bool | None, dict[str, Any]]:
    """Read ``LLAVA_VISTA``: "1" or "0", or "method=cosine,weight=0.5" (which also switches VISTA on).

    Returns:
        (on, options): ``on`` is None when the variable is not set.

    Raises:
        ConfigError: not of that form.
    """
    if value is None or value.strip() == "":
        return None, {}
    if "=" not in value:
        return read_switch(value, f"{ENVIRONMENT_VARIABLE} (or use method=...,weight=...)"), {}
    options: dict[str, Any] = {}
    for item in value.split(","):
        name, separator, text = (part.strip() for part in item.partition("="))
        if not separator:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE}: expected option=value, got {item!r} in {value!r}.")
        options[name] = _read_option(name, text, ENVIRONMENT_VARIABLE)
    return True, options


def read_flags(flags: Mapping[str, Any]) -> tuple[bool | None, dict[str, Any]]:
    """Read parsed flags or configuration keys (``vista``, ``vista_<option>``).

    Returns:
        (on, options): ``on`` is None when ``vista`` itself was not given.

    Raises:
        ConfigError: an unknown option or a value that cannot be read.
    """
    on = read_switch(flags[FLAG], f"--{FLAG}") if FLAG in flags else None
    options = {
        key[len(FLAG_PREFIX) :]: _read_option(key[len(FLAG_PREFIX) :], value, f"--{key}")
        for key, value in flags.items()
        if key != FLAG
    }
    return on, options


@dataclass(frozen=True)
class Resolved:
    """The outcome of `resolve`: the configuration (None = VISTA off) and what the user should be told."""

    config: VistaConfig | None
    notes: tuple[str, ...] = ()


def resolve(
    flags: Mapping[str, Any] | None = None, installed: VistaConfig | None = None, environment: str | None = None
) -> Resolved:
    """Settle what was asked for. A flag beats ``install(config)``, which beats the environment.

    ``LLAVA_VISTA=0`` switches an ``install()`` off, so that one script gives both arms of a comparison.

    Raises:
        ConfigError: a bad value, or VISTA options on the command line while nothing switches VISTA on.
    """
    flag_on, flag_options = read_flags(flags or {})
    env_on, env_options = read_environment(environment)
    if flag_on is not None:
        on = flag_on
    elif env_on is not None:
        on = env_on
    else:
        on = installed is not None
    if flag_on is None and flag_options and not on:
        given = ", ".join(f"--{FLAG_PREFIX}{name}" for name in flag_options)
        raise ConfigError(
            f"{given} given, but VISTA is not switched on: add --{FLAG} to train with it, or --{FLAG} False to "
            "say that it is meant to be off."
        )
    notes = []
    if flag_on is not None and env_on is not None and flag_on != env_on:
        notes.append(f"--{FLAG} {flag_on} on the command line beats {ENVIRONMENT_VARIABLE}={environment!r}.")
    for name, value in flag_options.items():
        if name in env_options and env_options[name] != value:
            notes.append(
                f"--{FLAG_PREFIX}{name} {value} on the command line beats {name}={env_options[name]} in "
                f"{ENVIRONMENT_VARIABLE}."
            )
    if not on:
        return Resolved(None, tuple(notes))
    base = {**env_options, **(installed.to_dict() if installed is not None else {})}
    return Resolved(VistaConfig(**{**base, **flag_options}), tuple(notes))
