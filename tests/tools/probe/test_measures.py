"""The probe's pure functions."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import pytest
import torch

from llava_vista import ConfigError
from llava_vista.errors import ProbeError
from llava_vista.hooks.image_information import mask_image, slope_sums
from llava_vista.tools.probe import add_arguments, check_options, short_names
from llava_vista.tools.probe.bootstrap import Bootstrap, Estimate
from llava_vista.tools.probe.conversation_samples import Turn, visual_marks, visual_tokens
from llava_vista.tools.probe.record_comparison import interval
from llava_vista.tools.probe.shared_neighbours import (
    SharedNeighbours,
    agreement,
    neighbours,
    permutation_null,
)

pytestmark = pytest.mark.environments("latest")

# --- bootstrap ---


def padded(*rows: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths as numerators and denominators."""
    parts = [torch.tensor(row, dtype=torch.float64) for row in rows]
    counts = [torch.ones_like(part) for part in parts]
    return tuple(torch.nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (parts, counts))


def test_curve_counts_and_averages_what_is_there() -> None:
    found = Bootstrap(3, 500, 0).ratios(padded([1, 2, 3], [3], [5, 4]))
    assert [one.value for one in found] == [3, 3, 3]
    assert [one.n for one in found] == [3, 2, 1]
    assert found[0].low < 3 < found[0].high
    assert found[2].record()["low"] is None  # one sample has no interval


def test_band_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(60, 400, generator=generator, dtype=torch.float64) + 2
    found = Bootstrap(60, 1000, 0).ratios((values, torch.ones_like(values)))
    assert 0.90 < sum(one.low < 2 < one.high for one in found) / 400 < 0.98


def test_samples_are_resampled_not_tokens() -> None:
    """Tokens that repeat within a sample carry no more than one: the interval must not shrink with their number."""
    generator = torch.Generator().manual_seed(2)
    level = torch.randn(40, generator=generator, dtype=torch.float64)
    bootstrap, ones = Bootstrap(40, 1000, 0), torch.ones(40, dtype=torch.float64)
    ((one,), (hundred,)) = bootstrap.ratios((level, ones)), bootstrap.ratios((level * 100, ones * 100))
    assert hundred.low == pytest.approx(one.low)
    assert hundred.high - hundred.low > 0.4


def test_a_constant_difference_has_no_interval_when_paired() -> None:
    generator = torch.Generator().manual_seed(3)
    level, ones = torch.randn(40, generator=generator, dtype=torch.float64), torch.ones(40, dtype=torch.float64)
    (found,) = Bootstrap(40, 500, 0).ratios((level, ones), (level + 0.25, ones))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_slope_is_within_samples() -> None:
    """Long samples that are higher are no slope; a common slope is found whatever the levels."""
    lengths = range(2, 30)
    sample = torch.cat([torch.full((length,), at) for at, length in enumerate(lengths)])
    number = torch.cat([torch.arange(1, length + 1) for length in lengths])
    level = torch.tensor([float(length) for length in lengths])[sample]
    xy, xx = slope_sums(level, sample, number, len(lengths))
    assert (xy.sum() / xx.sum()).item() == pytest.approx(0, abs=1e-6)
    (found,) = Bootstrap(28, 200, 0).ratios(slope_sums(level + 0.25 * number, sample, number, len(lengths)))
    assert found.value == pytest.approx(0.25) == pytest.approx(found.low)
    gaps = slope_sums(
        torch.tensor([1.0, 5.0]), torch.tensor([0, 0]), torch.tensor([2, 10]), 1
    )  # numbers may be missing
    assert (gaps[0] / gaps[1]).item() == pytest.approx(0.5)


def test_nothing_is_undefined_not_an_error() -> None:
    (estimate,) = Bootstrap(1, 100, 0).ratios((torch.zeros(1), torch.zeros(1)))
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
    """The second turn's word is marked there only, and a third answer that was truncated away has no labels."""
    turns = [Turn("q", "red cube"), Turn("q", "red", ("red",)), Turn("q", "gone", ("gone",))]
    pieces = {5: "red", 6: " cube", 7: "red"}
    labels = torch.tensor([-100, 5, 6, -100, -100, 7, -100])
    found = visual_marks(labels, turns, lambda ids: "".join(pieces[i] for i in ids))
    assert found == [False, False, True]


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


def test_an_image_counts_once() -> None:
    """A second copy would be everyone's nearest neighbour of itself, in both representations."""
    measure = SharedNeighbours(10, 0)
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(8, 5, generator=generator) for _ in range(2)]
    images = [Path(f"{number // 2}.png") for number in range(8)]
    measure.add(images, states, torch.randn(8, 3, generator=generator))
    record = measure.record()
    assert record["images"] == 4
    assert len(record["by_depth"]) == 2


def test_few_images_have_no_neighbours() -> None:
    measure = SharedNeighbours(10, 0)
    measure.add([Path("0.png")], [torch.zeros(1, 2)], torch.zeros(1, 2))
    record = measure.record()
    assert record["by_depth"] == []
    assert "too few images" in record["note"]


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
    assert checked("a", "b", "--measures", "attention", "information").names == ("a", "b")
    wrong = (("a", "b", "--names", "a"), ("a", "b", "--names", "a", "a"), ("a", "a"))
    for words in wrong:
        with pytest.raises(ConfigError):
            checked(*words)
