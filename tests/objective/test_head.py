"""The objective against the published values, against literal float64 loops, and at its edges."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from literal import literal_vista
from objective_checks import METHODS, equals_a_literal_loop, random_case
from torch.utils._python_dispatch import TorchDispatchMode

from llava_vista import (
    ConfigError,
    LayoutError,
    SequenceLayout,
    VistaConfig,
    vista_loss,
)
from llava_vista.objective import AlignmentHead, text_sums

REFERENCE = Path(__file__).parent.parent / "data" / "objective_cases.npz"


def reference_case(case: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, float]]:
    with np.load(REFERENCE) as file:
        embeds, hidden, kind = (
            torch.from_numpy(file[f"{case}/{key}"]) for key in ("inputs_embeds", "last_hidden_state", "kind")
        )
        # The published code subtracts its cosine value from the cross-entropy and adds its l2 value.
        return embeds, hidden, kind, {"l2": float(file[f"{case}/l2"]), "cosine": -float(file[f"{case}/cosine"])}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", range(3))
def test_published_values(case: int, method: str) -> None:
    embeds, hidden, kind, values = reference_case(case)
    loss = vista_loss(embeds, hidden, SequenceLayout(text=kind == 0, image=kind == 1), VistaConfig(method=method))
    assert loss.dtype == torch.float32
    assert loss.shape == ()
    assert abs(loss.item() - values[method]) < 1e-6


def test_published_cosine_sign_means_maximising() -> None:
    """Turning S_n towards the text lowers the loss."""
    text = torch.tensor([[False, True, True]])
    embeds = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    layout = SequenceLayout(text=text, image=~text)
    config = VistaConfig(method="cosine")
    aligned = vista_loss(embeds, torch.tensor([[[2.0, 0.0]] * 3]), layout, config)
    opposed = vista_loss(embeds, torch.tensor([[[-2.0, 0.0]] * 3]), layout, config)
    assert aligned.item() == pytest.approx(-0.75)
    assert opposed.item() == pytest.approx(0.75)


@pytest.mark.parametrize("scope", ["all", "answer"])
@pytest.mark.parametrize("weighting", ["linear", "uniform"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch", "length", "width"), [(1, 2, 1), (1, 13, 48), (3, 29, 17), (5, 211, 64)])
def test_values_and_gradients_equal_a_literal_loop(
    batch: int, length: int, width: int, method: str, weighting: str, scope: str
) -> None:
    equals_a_literal_loop(batch, length, width, method, weighting, scope)


def published_arithmetic(embeds: torch.Tensor, hidden: torch.Tensor, text: torch.Tensor, image: torch.Tensor, method):
    """As the published code computes in the model's dtype: elementwise difference first, float32 after."""
    losses = []
    for row in range(text.shape[0]):
        x, anchor = embeds[row, text[row]], hidden[row, image[row]][-1]
        t = torch.arange(1, len(x) + 1, dtype=torch.float32) / len(x)
        if method == "l2":
            each = torch.nn.functional.mse_loss(anchor.expand_as(x), x, reduction="none").float().mean(dim=1)
            losses.append((each * t).mean())
        else:
            each = torch.nn.functional.cosine_similarity(anchor.expand_as(x), x, dim=-1).float()
            losses.append(-(each * t).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_is_no_further_from_float64_than_published_arithmetic(method: str) -> None:
    ours_error = published_error = 0.0
    for seed in range(20):
        embeds, hidden, kind, _ = random_case(seed, 3, 150, 256)
        kind[:, :2] = torch.tensor([0, 1])
        embeds, hidden, text, image = embeds.bfloat16(), hidden.bfloat16(), kind == 0, kind == 1
        exact = literal_vista(embeds.double(), hidden.double(), text, image, method)[0].item()
        ours = vista_loss(embeds, hidden, SequenceLayout(text, image), VistaConfig(method=method))
        assert ours.dtype == torch.float32
        ours_error += abs(ours.item() - exact)
        published_error += abs(published_arithmetic(embeds, hidden, text, image, method).item() - exact)
    assert ours_error <= published_error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_under_autocast_stays_float32(dtype: torch.dtype, method: str) -> None:
    embeds, hidden, kind, _ = random_case(1, 2, 40, 4096)
    layout = SequenceLayout(kind == 0, kind == 1)
    # 300 * 4096 squares add up far beyond float16's range
    embeds, hidden = (300 * embeds).to(dtype), (300 * hidden).to(dtype).requires_grad_()
    exact = literal_vista(embeds.double(), hidden.detach().double(), layout.text, layout.image, method)[0].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = vista_loss(embeds, hidden, layout, VistaConfig(method=method))
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    assert hidden.grad.dtype == dtype
    assert hidden.grad.isfinite().all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 4), length=st.integers(1, 12), method=st.sampled_from(METHODS))
def test_samples_without_image_or_text_drop_out(seed: int, batch: int, length: int, method: str) -> None:
    embeds, hidden, kind, _ = random_case(seed, batch, length, 5)
    terms = AlignmentHead(VistaConfig(method=method))(embeds, hidden, SequenceLayout(kind == 0, kind == 1))
    expected, _ = literal_vista(embeds.double(), hidden.double(), kind == 0, kind == 1, method)
    assert terms.loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert terms.aligned.item() == sum(bool((row == 0).any() and (row == 1).any()) for row in kind)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [[[0, 0, 0]], [[1, 1, 1]], [[-1, -1, -1]], [[0, 0, -1], [1, 1, -1]]])
def test_nothing_to_align_is_a_connected_zero(kind: list[list[int]], method: str) -> None:
    layout = SequenceLayout(torch.tensor(kind) == 0, torch.tensor(kind) == 1)
    embeds, hidden = (torch.randn(*layout.shape, 4, requires_grad=True) for _ in range(2))
    loss = vista_loss(embeds, hidden, layout, VistaConfig(method=method))
    assert loss.item() == 0
    loss.backward()
    assert hidden.grad.abs().max() == 0
    assert embeds.grad.abs().max() == 0


def test_garbage_in_an_unaligned_sample_harms_nobody() -> None:
    """Left padding may hold NaN hidden states; a sample without an image must not spread them."""
    embeds, hidden, _, _ = random_case(0, 2, 6, 8)
    text = torch.tensor([[True] * 6, [False, False, True, True, True, True]])
    image = torch.zeros_like(text)
    image[1, :2] = True
    hidden[0] = torch.nan
    hidden.requires_grad_()
    loss = vista_loss(embeds, hidden, SequenceLayout(text, image))
    loss.backward()
    assert loss.isfinite()
    assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["hidden", "embeds"])
def test_skip_leaves_a_constant_zero(method: str, bad: float, where: str) -> None:
    embeds, hidden, kind, _ = random_case(3, 2, 9, 4)
    kind[:, :2] = torch.tensor([0, 1])
    kind[:, 2:] = 0
    {"hidden": hidden, "embeds": embeds}[where][0, {"hidden": 1, "embeds": 0}[where], 2] = bad
    embeds.requires_grad_(), hidden.requires_grad_()
    layout = SequenceLayout(kind == 0, kind == 1)
    terms = AlignmentHead(VistaConfig(method=method, on_nonfinite="skip"))(embeds, hidden, layout)
    assert (terms.loss.item(), terms.finite.item()) == (0, 0)
    # No graph: a gradient of 0 through a decoder that was not finite itself would be NaN.
    assert not terms.loss.requires_grad
    assert AlignmentHead(VistaConfig(method=method))(embeds, hidden, layout).finite == 0


def test_skip_changes_nothing_while_all_is_finite() -> None:
    results = []
    for on_nonfinite in ("stop", "skip"):
        embeds, hidden, kind, _ = random_case(4, 3, 20, 6)
        embeds.requires_grad_(), hidden.requires_grad_()
        vista_loss(
            embeds, hidden, SequenceLayout(kind == 0, kind == 1), VistaConfig(on_nonfinite=on_nonfinite)
        ).backward()
        results.append((embeds.grad, hidden.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


class MatrixProducts(TorchDispatchMode):
    """Keeps the dtypes of what is multiplied as matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[torch.dtype] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket.__name__ in ("mm", "bmm", "addmm", "baddbmm", "baddbmm_", "mv", "dot"):
            self.found.append(args[-1].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
def test_tf32_has_no_say(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU no float32 matrix product is left, forward or backward, that the host's --tf32 would make coarse."""
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())
    monkeypatch.setattr(text_sums, "_DEVICES", ("cuda", "meta"))
    embeds, hidden = (torch.randn(3, 40, 16, device="meta", requires_grad=True) for _ in range(2))
    text = torch.zeros(3, 40, dtype=torch.bool, device="meta")
    with MatrixProducts() as products:
        torch.mm(embeds[0], hidden[0].T)
        AlignmentHead(VistaConfig(method=method))(embeds, hidden, SequenceLayout(text, ~text)).loss.backward()
    assert products.found[0] == torch.float32
    assert set(products.found[1:]) == {torch.float64}


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("method", ["l2", "cosine", "infonce"])
def test_nothing_is_read_on_the_host_but_a_cpus_tensors(
    method: str, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensors without data stand in for a GPU's: whatever would wait for a value raises."""
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())  # knows no such device
    embeds, hidden = (torch.randn(3, 40, 16, dtype=torch.bfloat16, device="meta", requires_grad=True) for _ in range(2))
    text = torch.zeros(3, 40, dtype=torch.bool, device="meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(text.any())
    head = AlignmentHead(VistaConfig(method=method, weight=weight, on_nonfinite="stop" if weight else "skip"))
    head(embeds, hidden, SequenceLayout(text, ~text)).loss.backward()
    for tensor in (embeds, hidden):
        assert (tensor.grad.shape, tensor.grad.dtype) == (tensor.shape, tensor.dtype)


def test_frozen_embeddings_get_no_gradient() -> None:
    embeds, hidden, kind, _ = random_case(5, 2, 20, 6)
    hidden.requires_grad_()
    vista_loss(embeds, hidden, SequenceLayout(kind == 0, kind == 1)).backward()
    assert embeds.grad is None


def test_head_has_no_state() -> None:
    head = AlignmentHead(VistaConfig())
    assert not list(head.parameters())
    assert not head.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "l3"}, "unknown VISTA method 'l3'; known: cosine, infonce, l2"),
        ({"position_weighting": "square"}, "unknown position weighting 'square'; known: linear, uniform"),
        ({"text_scope": "question"}, "unknown VISTA text_scope 'question'; known: all, answer"),
        ({"on_nonfinite": "ignore"}, "unknown VISTA on_nonfinite 'ignore'; known: stop, skip"),
        ({"weight": -0.1}, "not negative, got -0.1"),
        ({"weight": float("nan")}, "must be finite"),
        ({"weight": float("inf")}, "must be finite"),
        ({"weight": "1"}, "must be a number"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VistaConfig(**options)


def test_layout_and_shape_errors() -> None:
    mask = torch.ones(1, 3, dtype=torch.bool)
    with pytest.raises(LayoutError, match=r"text must be a boolean \(B, L\) tensor"):
        SequenceLayout(text=mask.long(), image=mask)
    with pytest.raises(LayoutError, match="image is"):
        SequenceLayout(text=mask, image=mask[:, :2])
    for spans in ([], [(0, 1, 1)], [(1, 0, 2)], [(0, 2, 4)]):
        with pytest.raises(LayoutError, match=r"are not \(row, start, stop\) within masks \(1, 3\)"):
            SequenceLayout(text=mask, image=~mask, spans=spans)
    with pytest.raises(LayoutError, match="rows without a position"):
        SequenceLayout(text=mask[:, :0], image=mask[:, :0])
    with pytest.raises(LayoutError, match="do not describe one"):
        vista_loss(torch.zeros(1, 4, 2), torch.zeros(1, 4, 2), SequenceLayout(mask, ~mask))
    with pytest.raises(LayoutError, match="supervised tokens"):
        vista_loss(
            torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), SequenceLayout(mask, ~mask), VistaConfig(text_scope="answer")
        )
