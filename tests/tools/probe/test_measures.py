"""The probe's pure functions."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llava_vista import ConfigError
from llava_vista.errors import ProbeError
from llava_vista.tools.probe.bootstrap import Bootstrap, Estimate, slope_sums, stack
from llava_vista.tools.probe.conversation_samples import Sample
from llava_vista.tools.probe.forward_trace import mask_image
from llava_vista.tools.probe.measures.shared_neighbours import (
    SharedNeighbours,
    agreement,
    depths,
    neighbours,
    permutation_null,
)
from llava_vista.tools.probe.measures.visual_information import answer_runs, visual_tokens
from llava_vista.tools.probe.probe_options import add_arguments, check_options, recorded_options, short_names
from llava_vista.tools.probe.probe_table import interval
from llava_vista.tools.probe.probed_batch import exchanged_images

pytestmark = pytest.mark.environments("latest")

# --- bootstrap ---


def test_curve_counts_and_averages_what_is_there() -> None:
    curve = Bootstrap(3, 500, 0).curve(stack([torch.tensor([1.0, 2, 3]), torch.tensor([3.0]), torch.tensor([5.0, 4])]))
    assert curve.mean.tolist() == [3, 3, 3]
    assert curve.n.tolist() == [3, 2, 1]
    assert curve.low[0] < 3 < curve.high[0]
    assert torch.isnan(curve.low[2])  # one sample has no interval


def test_band_of_a_constant_is_the_constant_however_many_reach() -> None:
    curve = Bootstrap(9, 300, 0).curve(stack([torch.full((length,), 3.0) for length in range(1, 10)]))
    reached = curve.n >= 2
    assert curve.low[reached].tolist() == pytest.approx([3] * 8)
    assert curve.high[reached].tolist() == pytest.approx([3] * 8)


def test_missing_values_inside_a_curve_are_not_zeros() -> None:
    curve = Bootstrap(2, 50, 0).curve(stack([torch.tensor([torch.nan, 2]), torch.tensor([4.0, 4])]))
    assert curve.mean.tolist() == [4, 3]
    assert curve.n.tolist() == [1, 2]


def test_band_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(60, 400, generator=generator, dtype=torch.float64) + 2
    curve = Bootstrap(60, 1000, 0).curve(values)
    covered = ((curve.low < 2) & (curve.high > 2)).double().mean()
    assert 0.90 < covered < 0.98


def test_samples_are_resampled_not_tokens() -> None:
    """Tokens that repeat within a sample carry no more than one: the interval must not shrink with their number."""
    generator = torch.Generator().manual_seed(2)
    level = torch.randn(40, generator=generator, dtype=torch.float64)
    bootstrap = Bootstrap(40, 1000, 0)
    one = bootstrap.ratio(level, torch.ones(40, dtype=torch.float64))
    hundred = bootstrap.ratio(level * 100, torch.full((40,), 100.0, dtype=torch.float64))
    assert hundred.low == pytest.approx(one.low)
    assert hundred.high - hundred.low > 0.4


def test_slope_is_within_samples() -> None:
    """Long samples that lie higher are no slope; a common slope is found whatever the levels."""
    flat = stack([torch.full((length,), float(length)) for length in range(2, 30)])
    sxy, sxx = slope_sums(flat)
    assert (sxy.sum() / sxx.sum()).item() == pytest.approx(0, abs=1e-12)
    rising = flat + 0.25 * torch.arange(29)
    found = Bootstrap(28, 200, 0).ratio(*slope_sums(rising))
    assert found.value == pytest.approx(0.25)
    assert found.low == pytest.approx(0.25) == pytest.approx(found.high)


def test_nothing_is_undefined_not_an_error() -> None:
    estimate = Bootstrap(1, 100, 0).ratio(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    record = estimate.record()
    assert record["value"] is record["low"] is None
    assert interval(record) == "-"
    assert "NaN" not in json.dumps(record, allow_nan=False)
    assert interval(Estimate(1, float("nan"), float("nan"), 1).record()) == "1.000"


# --- no image ---


def test_masks_of_every_form_lose_the_image_only() -> None:
    image = torch.tensor([[False, True, True, False], [False, False, True, False]])
    plain = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    assert mask_image(plain, image).tolist() == [[1, 0, 0, 1], [1, 1, 0, 0]]
    assert mask_image(plain.bool(), image).tolist() == [[True, False, False, True], [True, True, False, False]]
    assert mask_image(None, image).tolist() == (~image).tolist()
    causal = torch.full((4, 4), torch.finfo(torch.float32).min).triu(1).expand(2, 1, 4, 4)
    additive = mask_image(causal, image)
    assert (additive[0, 0, 3] == 0).tolist() == [True, False, False, True]
    assert (additive[1, 0, :, 2] < -1e30).all()
    boolean = mask_image({"full": causal == 0}, image)["full"]
    assert boolean[0, 0, 3].tolist() == [True, False, False, True]
    assert plain.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]  # the caller's own is not written to
    with pytest.raises(ProbeError, match="the image cannot be masked"):
        mask_image(torch.ones(2, 9), image)


def test_shuffling_gives_each_image_another_one() -> None:
    paths = [Path(name) for name in "aabbcdd"]
    swapped = exchanged_images(paths, 0)
    assert sorted(swapped) == sorted(swapped.values()) == [Path(name) for name in "abcd"]
    assert all(mine != theirs for mine, theirs in swapped.items())
    assert swapped == exchanged_images(paths, 0)
    assert any(swapped != exchanged_images(paths, seed) for seed in range(1, 6))


# --- words ---


def test_visual_tokens_follow_whole_words() -> None:
    pieces = ["A", " re", "d", " cube", ",", " bored", " Red", " cub", "es", "."]
    found = visual_tokens(range(10), ["red", "cube"], lambda ids: "".join(pieces[i] for i in ids))
    assert [piece for piece, hit in zip(pieces, found, strict=True) if hit] == [" re", "d", " cube", " Red"]
    phrase = visual_tokens(range(10), ["red cube"], lambda ids: "".join(pieces[i] for i in ids))
    assert phrase == [False, True, True, True, *[False] * 6]


def test_characters_of_several_tokens_belong_to_the_last() -> None:
    pieces = [b"a ", b"\xc3", b"\xa4rmel", b" b"]
    found = visual_tokens(
        range(4), ["\u00e4rmel"], lambda ids: b"".join(pieces[i] for i in ids).decode(errors="replace")
    )
    assert found == [False, False, True, False]


def test_each_run_of_labels_is_an_answer() -> None:
    assert answer_runs(torch.tensor([-100, 5, 6, -100, -100, 7, -100])) == [[5, 6], [7]]


# --- neighbours ---


def test_agreement_of_the_same_and_of_unrelated_representations() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(80, 6, generator=generator)
    left = neighbours(features, 5)
    assert left.sum(dim=1).tolist() == [5] * 80
    assert left.diagonal().sum() == 0
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    assert (
        agreement(left, neighbours(3 * features @ rotation + 7, 5)).mean() == 1
    )  # scale, turn and shift do not matter
    null = permutation_null(left, left, 100, 0)
    assert null.mean().item() == pytest.approx(5 / 79, abs=0.01)  # by chance k/(N-1)
    unrelated = agreement(left, neighbours(torch.randn(80, 6, generator=generator), 5)).mean()
    assert null.min() - 0.02 < unrelated < null.max() + 0.02


def test_permutation_reorders_both_ends_of_an_edge() -> None:
    """Against the literal: permute the features, and find the neighbours again."""
    generator = torch.Generator().manual_seed(3)
    left = neighbours(torch.randn(12, 4, generator=generator), 3)
    features = torch.randn(12, 4, generator=generator)
    right = neighbours(features, 3)
    literal = []
    draws = torch.Generator().manual_seed(9)
    for _ in range(5):
        order = torch.randperm(12, generator=draws)
        literal.append(agreement(left, neighbours(features[order], 3)).mean())
    assert permutation_null(left, right, 5, 9).tolist() == pytest.approx(torch.stack(literal).tolist())


def batch_of(samples: list[Sample], states: list[torch.Tensor], tower: torch.Tensor) -> Any:
    """What the measure reads of a `ProbedBatch`."""
    return SimpleNamespace(samples=samples, trace=SimpleNamespace(states=states), tower_features=lambda: tower)


def test_an_image_counts_once() -> None:
    """A second copy would be everyone's nearest neighbour of itself, in both representations."""
    measure = SharedNeighbours(None, 10, 0)
    samples = [Sample(str(number), Path(f"{number // 2}.png"), ()) for number in range(8)]
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(8, 5, generator=generator) for _ in range(2)]
    measure.add(batch_of(samples, states, torch.randn(8, 3, generator=generator)))
    record = measure.record(Bootstrap(1, 10, 0))
    assert record["images"] == 4
    assert len(record["by_depth"]) == 2


def test_few_images_have_no_neighbours() -> None:
    measure = SharedNeighbours(None, 10, 0)
    measure.add(batch_of([Sample("0", Path("0.png"), ())], [torch.zeros(1, 2)], torch.zeros(1, 2)))
    record = measure.record(Bootstrap(1, 10, 0))
    assert record["by_depth"] == []
    assert "too few images" in record["note"]


def test_depths_keep_both_ends_and_few() -> None:
    assert depths(3) == [0, 1, 2, 3]
    assert depths(0) == [0]
    assert depths(32) == [0, 4, 8, 12, 16, 20, 24, 28, 32]
    assert all(len(depths(layers)) <= 9 and depths(layers)[-1] == layers for layers in range(100))


# --- options ---


def test_short_names_are_the_parts_that_differ() -> None:
    assert short_names([Path("/x/demo/baseline/finetune"), Path("/x/demo/vista/finetune")]) == ("baseline", "vista")
    assert short_names([Path("/x/a"), Path("/x/b"), Path("/x/c")]) == ("a", "b", "c")
    assert short_names([Path("/x/llava/7b")]) == ("llava/7b",)
    for paths in itertools.permutations([Path("/x"), Path("/x/y"), Path("/x/y/z"), Path("/y/x"), Path("/x/x/y")], 3):
        assert len(set(short_names(paths))) == 3, paths


def checked(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    options = parser.parse_args(words)
    check_options(options)
    return options


def test_options_are_checked() -> None:
    json.dumps(recorded_options(checked("a", "b", "--data", "x.json", "--measures", "attention", "information")))
    assert checked("a", "b", "--measures", "attention", "information").measures == ("information", "attention")
    wrong = (("a", "b", "--names", "a"), ("a", "b", "--names", "a", "a"), ("a", "a"), ("a", "--batch-size", "0"))
    for words in wrong:
        with pytest.raises(ConfigError):
            checked(*words)
