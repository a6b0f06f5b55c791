"""Where options can be set, and how contradictions are settled."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_vista import ConfigError, VistaConfig
from llava_vista.config import OPTIONS, misspelt, read_environment, resolve, vista_key


def test_defaults_are_published() -> None:
    config = VistaConfig()
    assert (config.method, config.weight, config.position_weighting, config.text_scope) == ("l2", 1.0, "linear", "all")


def test_nothing_asked_is_off() -> None:
    assert resolve().config is None
    assert resolve(environment="0").config is None
    assert resolve(environment="").config is None


def test_each_source_switches_on() -> None:
    assert resolve({"vista": True}).config == VistaConfig()
    assert resolve(environment="1").config == VistaConfig()
    assert resolve(installed=VistaConfig("cosine")).config == VistaConfig("cosine")
    expected = VistaConfig(method="cosine", weight=0.5)
    assert resolve(environment=" method = cosine , weight=0.5").config == expected
    assert resolve({"vista": "true", "vista_method": "cosine", "vista_weight": "0.5"}).config == expected


def test_flag_beats_install_beats_environment() -> None:
    resolved = resolve({"vista": True, "vista_weight": 2.0}, VistaConfig("cosine", 3.0), "method=l2,text_scope=answer")
    assert resolved.config == VistaConfig("cosine", 2.0)
    resolved = resolve({"vista": True, "vista_weight": 2.0}, None, "weight=4,method=cosine")
    assert resolved.config == VistaConfig("cosine", 2.0)
    assert resolved.notes == ("--vista_weight 2.0 on the command line beats weight=4.0 in LLAVA_VISTA.",)


def test_switches_off() -> None:
    resolved = resolve({"vista": False}, None, "method=cosine")
    assert resolved.config is None
    assert "beats LLAVA_VISTA='method=cosine'" in resolved.notes[0]
    assert resolve({}, VistaConfig(), "0").config is None
    assert resolve({"vista": True}, None, "0").config == VistaConfig()


def test_environment_carries_an_option_flag() -> None:
    assert resolve({"vista_weight": 0.1}, None, "1").config == VistaConfig(weight=0.1)


@pytest.mark.parametrize(
    ("flags", "environment", "message"),
    [
        ({"vista_weight": 1.0}, None, "--vista_weight given, but VISTA is not switched on: add --vista"),
        ({"vista": "perhaps"}, None, "--vista must be true or false, got 'perhaps'"),
        ({"vista": True, "vista_method": "l3"}, None, "unknown VISTA method 'l3'; known: cosine, infonce, l2"),
        ({"vista": True, "vista_weight": -1.0}, None, "not negative"),
        ({"vista": True, "vista_weight": "much"}, None, "--vista_weight: VISTA weight must be a number"),
        ({}, "yess", "must be true or false, got 'yess'"),
        ({}, "metod=l2", "LLAVA_VISTA: unknown VISTA option 'metod'; did you mean method\\? Known: method, weight"),
        ({}, "method=l2,weight", "expected option=value, got 'weight'"),
        ({}, "weight=heavy", "must be a number, got 'heavy'"),
    ],
)
def test_bad_input(flags: dict, environment: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(flags, None, environment)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "method": st.sampled_from(["l2", "cosine"]),
            "weight": st.floats(0, 1e6),
            "position_weighting": st.sampled_from(["linear", "uniform"]),
            "text_scope": st.sampled_from(["all", "answer"]),
            "on_nonfinite": st.sampled_from(["stop", "skip"]),
        },
    )
)
def test_environment_and_flags_say_the_same(options: dict) -> None:
    text = ",".join(f"{key}={value}" for key, value in options.items()) or "1"
    assert read_environment(text) == (True, options)
    flags = {"vista": True, **{f"vista_{key}": str(value) for key, value in options.items()}}
    assert resolve(environment=text).config == resolve(flags).config == VistaConfig(**options)


def test_keys() -> None:
    assert vista_key("vista")
    assert all(vista_key(f"vista_{name}") for name in OPTIONS)
    assert vista_key("--vista-weight=0.5") == "vista_weight"
    assert not vista_key("vista_path")
    assert not vista_key("vistas")


def test_a_misspelt_flag_names_the_nearest() -> None:
    assert misspelt(["--lr", "--vista_wieght=1"]) == "--vista_wieght=1 is not known; did you mean --vista_weight?"
    assert misspelt(["vista-metod"]) == "vista-metod is not known; did you mean vista_method?"
    assert misspelt(["--no-vista"]) == "--no-vista is not known; --vista False switches VISTA off."
    assert misspelt(["--vista", "--vista-weight", "--vision_tower", "no"]) is None
    with pytest.raises(ConfigError, match="did you mean weight"):
        read_environment("wieght=1")


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import llava_vista, llava_vista.hooks, llava_vista.config, sys;"
        "print([m for m in ('torch', 'transformers', 'einops', 'numpy') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
