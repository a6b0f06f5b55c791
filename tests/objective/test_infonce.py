"""The contrastive estimator: against a literal float64 loop, and several ranks against one process."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from infonce_ranks import make_batch
from literal import literal_infonce

from llava_vista import ConfigError, SequenceLayout, VistaConfig, register_weighting, vista_loss
from llava_vista.config import WEIGHTINGS
from llava_vista.objective import AlignmentHead


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_values_and_gradients_equal_a_literal_loop(seed: int, temperature: float) -> None:
    embeds, hidden, kind = make_batch(seed, 6)
    exact = [tensor.double().requires_grad_() for tensor in (embeds, hidden)]
    inputs = [tensor.clone().requires_grad_() for tensor in (embeds, hidden)]
    layout = SequenceLayout(kind == 0, kind == 1)
    loss = vista_loss(*inputs, layout, VistaConfig(method="infonce", temperature=temperature))
    loss.backward()
    expected = literal_infonce(*exact, kind == 0, kind == 1, temperature)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for ours, theirs in zip(inputs, exact, strict=True):
        assert (ours.grad.double() - theirs.grad).abs().max() <= 1e-5 * theirs.grad.abs().max()


def test_weights_may_be_negative() -> None:
    """The text is their mean: the sign of all weights cancels."""
    embeds, hidden, kind = make_batch(1, 6)
    layout = SequenceLayout(kind == 0, kind == 1)
    register_weighting("minus")(lambda t, m: -t / m)
    try:
        minus, linear = (
            vista_loss(embeds, hidden, layout, VistaConfig(method="infonce", position_weighting=name))
            for name in ("minus", "linear")
        )
    finally:
        WEIGHTINGS.remove("minus")
    assert minus.item() == pytest.approx(linear.item(), abs=1e-6)


def test_equal_captions_are_no_negatives() -> None:
    """Four samples, two with one caption; then two with almost one caption."""
    embeds, hidden, kind = make_batch(0, 4, ragged=False)
    embeds[1, kind[1] == 0] = embeds[0, kind[0] == 0]
    layout = SequenceLayout(kind == 0, kind == 1)
    config = VistaConfig(method="infonce")
    for _ in range(2):
        expected = literal_infonce(embeds.double(), hidden.double(), kind == 0, kind == 1, 0.1)
        assert vista_loss(embeds, hidden, layout, config).item() == pytest.approx(expected.item(), abs=1e-5)
        embeds[1, kind[1] == 0] += 0.01  # almost equal captions are negatives, to the loop and to us


@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_samples_give_a_connected_zero(valid: int) -> None:
    embeds, hidden, kind = make_batch(1, 3)
    kind[valid:] = 0
    embeds.requires_grad_(), hidden.requires_grad_()
    loss = vista_loss(embeds, hidden, SequenceLayout(kind == 0, kind == 1), VistaConfig(method="infonce"))
    loss.backward()
    assert loss.item() == 0
    assert hidden.grad.abs().max() == 0
    assert embeds.grad.abs().max() == 0


def test_bounded_by_log_n_and_reached_when_aligned() -> None:
    embeds, hidden, kind = make_batch(2, 8, ragged=False)
    for row in range(8):  # the anchor is the caption's own summary
        text = embeds[row, kind[row] == 0]
        hidden[row] = torch.arange(1, len(text) + 1).float() @ text
    loss = vista_loss(
        embeds, hidden, SequenceLayout(kind == 0, kind == 1), VistaConfig(method="infonce", temperature=0.01)
    )
    assert -math.log(8) <= loss.item() < -math.log(8) + 0.01


def test_detached_text_gets_no_gradient() -> None:
    for method in ("l2", "cosine", "infonce"):
        embeds, hidden, kind = make_batch(3, 4)
        embeds.requires_grad_(), hidden.requires_grad_()
        layout = SequenceLayout(kind == 0, kind == 1)
        vista_loss(embeds, hidden, layout, VistaConfig(method=method, detach_text=True)).backward()
        assert embeds.grad is None
        assert hidden.grad.abs().max() > 0


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": -1.0}, {"detach_text": "perhaps"}])
def test_bad_options(options: dict) -> None:
    with pytest.raises(ConfigError):
        VistaConfig(method="infonce", **options)


def test_two_ranks_equal_one_process_on_the_joined_batch() -> None:
    """Also when one rank has fewer samples, or no image for many steps. Asserted by the script itself."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    here = Path(__file__).parents[1] / "support"
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port),
         str(here / "infonce_ranks.py")],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=240, cwd=here,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-4000:]
    assert result.stdout.count("equal") == 22
    assert AlignmentHead(VistaConfig(method="infonce")).estimator.joins_ranks
