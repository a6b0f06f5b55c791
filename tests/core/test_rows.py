"""How rows are read: in pieces of which it is known which rows count, or not, and by kernels that are tried first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from objective_checks import METHODS, equals_a_literal_loop, rows_without_weight_do_not_count

from llava_vista.objective import backend, rows


@pytest.fixture(params=["known", "unknown"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In many pieces, of which it is known which rows count (as on a CPU) or not (as elsewhere)."""
    cut = rows._cut
    monkeypatch.setattr(rows, "_PIECE_CORE", 100)
    if request.param == "unknown":
        monkeypatch.setattr(rows, "_cut", lambda *given: [piece._replace(rows="some") for piece in cut(*given)])
        monkeypatch.setattr(rows, "_multiplies_exactly", lambda device: False)


@pytest.mark.parametrize("wrong", ["sum_rows", "write_rows"])
def test_kernels_that_give_something_else_are_found_out(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(result):
        return (result[0] * 1.001, result[1]) if isinstance(result, tuple) else result + 0.01 * result.abs().max()

    kernels = SimpleNamespace(sum_rows=rows.sum_rows, write_rows=rows.write_rows)
    assert backend.agree(kernels, torch.device("cpu"), torch.bfloat16, 48)
    function = getattr(rows, wrong)
    setattr(kernels, wrong, lambda *given: spoil(function(*given)))
    assert not backend.agree(kernels, torch.device("cpu"), torch.bfloat16, 48)


def test_kernels_that_do_not_run_are_replaced_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given):
        raise RuntimeError("no C compiler")

    broken = SimpleNamespace(sum_rows=fail, write_rows=fail, WIDEST=100)
    gpu = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, shape=(2, 3, 8), device=torch.device("cpu"))
    gpu.stride, gpu.numel = lambda axis: 1, lambda: 48
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(backend.importlib, "import_module", lambda name: broken)
    said: list[str] = []
    monkeypatch.setattr(backend, "warn_once", said.append)
    backend._tried.cache_clear()
    assert backend.backend(gpu) is rows
    assert "no C compiler" in said[0]
    backend._tried.cache_clear()
    broken.sum_rows, broken.write_rows = rows.sum_rows, rows.write_rows
    assert backend.backend(gpu) is broken
    monkeypatch.setenv("LLAVA_VISTA_TRITON", "0")
    assert backend.backend(gpu) is rows
    backend._tried.cache_clear()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("batch", "length", "width"), [(3, 47, 17), (1, 1, 300), (50, 2, 9), (7, 4, 5)])
def test_both_ways_of_reading_equal_a_literal_loop(
    batch: int, length: int, width: int, method: str, reading: None
) -> None:
    equals_a_literal_loop(batch, length, width, method, "linear", "all")


def test_pieces_cover_everything_once_and_say_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_PIECE_CORE", 100)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    used = torch.zeros(6, 30, dtype=torch.bool)
    used[0], used[1, 11:], used[2, 3], used[3, ::2] = True, True, True, True
    used[4, :9], used[4, 12] = True, True
    # 1: three samples each; 10: at most 10 rows of a run, short runs together; 1000: one row, or a run without weights
    for width, count in ((1, 2), (10, 3 + 3 + 2 + 3 + 3 + 1), (1000, 30 + 1 + 19)):
        seen = torch.zeros(used.shape, dtype=torch.int)
        pieces = rows._cut(used if width < 1000 else used[[0, 1]], width)
        for piece in pieces:
            part = used[piece.at]
            seen[piece.at] += 1
            assert piece.rows == "none" or part.numel() <= max(1, 100 // width)
            assert piece.rows != "all" or part.all()
            assert piece.rows != "none" or not part.any()
        assert (seen == 1)[: 2 if width == 1000 else 6].all()
        assert len(pieces) == count


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scope", ["all", "answer"])
@pytest.mark.parametrize("method", METHODS)
def test_rows_without_weight_reach_neither_value_nor_gradient(
    method: str, scope: str, dtype: torch.dtype, bad: float, reading: None
) -> None:
    rows_without_weight_do_not_count(method, scope, dtype, bad)
