import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifted_lightning.metrics.points import fold_sum, full_precision, prepare
from lifted_lightning.metrics.scan import Best, Tile


@given(st.integers(0, 40), st.integers(0, 5))
def test_fold_sum_is_a_sum_that_zeros_do_not_change(width: int, more: int) -> None:
    values = torch.randn(3, width, dtype=torch.float64)
    result = fold_sum(values.clone())
    torch.testing.assert_close(result, values.sum(1), rtol=1e-12, atol=1e-13)
    assert torch.equal(fold_sum(torch.cat([values, torch.zeros(3, more)], 1)), result)
    assert torch.equal(fold_sum(values[1:2].clone()), result[1:2])


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e15])
def test_scores_keep_their_error_bound(offset: float, size: float) -> None:
    x = size * (torch.randn(300, 200) + offset) * torch.logspace(-2, 2, 300)[:, None]
    points = prepare(x, "euclidean")
    rows = torch.arange(300)
    coarse = points.queries(rows) @ points.coarse.T
    pairs = torch.cartesian_prod(rows, rows)
    exact = points.scores(pairs[:, 0], points.squared_distances(pairs[:, 0], pairs[:, 1])).view(300, 300)
    error = (coarse.double() - exact).abs()
    bound = points.error_bound(rows)[:, None]
    assert (error <= bound).all()
    assert error.max() > 1e-4 * bound.min()  # a bound that says something


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_rows_are_found(dtype: torch.dtype) -> None:
    x = torch.randn(50, 3, dtype=dtype)
    x[[7, 9]] = x[2].clone()
    x[30], x[31] = 0.0, -0.0
    expected = torch.arange(50)
    expected[[7, 9]] = 2
    expected[31] = 30
    assert torch.equal(prepare(x, "euclidean").same, expected)


@pytest.mark.parametrize("k", [1, 3, 20, 100])
@pytest.mark.parametrize("width", [16, 96, 4096])
def test_largest_of_a_tile_is_topk(k: int, width: int) -> None:
    scores = torch.randn(5, width)
    values, columns = Tile(30, scores, k).largest()
    assert torch.equal(values.sort(1, descending=True).values, scores.topk(min(k, width)).values)
    assert torch.equal(scores.gather(1, columns - 30), values)


@pytest.mark.parametrize("k", [1, 50])
def test_members_hold_all_that_is_large(k: int) -> None:
    scores = torch.randn(9, 64)
    low = torch.full((9, 1), 1.5)
    queries, members, columns = Tile(30, scores, k).members_from(low)
    assert torch.equal(scores[queries[:, None], columns - 30], members)
    at, place = (members >= 1.5).nonzero(as_tuple=True)
    found = sorted(zip(queries[at].tolist(), (columns[at, place] - 30).tolist(), strict=True))
    assert found == [tuple(pair) for pair in (scores >= 1.5).nonzero().tolist()]


def test_best_of_tiles_is_topk_of_all() -> None:
    scores = torch.randn(5, 64 * 30)
    best = Best(20)
    for start in range(0, scores.shape[1], 64):
        best.add(Tile(start, scores[:, start : start + 64].contiguous(), 20))
    values, columns = best.sorted()
    assert torch.equal(values, scores.topk(20).values)
    assert torch.equal(scores.gather(1, columns), values)


def test_full_precision_whatever_is_allowed_elsewhere() -> None:
    a, b = torch.randn(256, 512), torch.randn(512, 256)
    expected = a @ b
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), full_precision():
            assert torch.equal(a @ b, expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
