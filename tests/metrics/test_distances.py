import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifted_lightning.metrics.distances import fold_sum, full_precision
from lifted_lightning.metrics.search import Search, largest


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
    rows = torch.arange(300)
    search = Search(x, rows)
    coarse = search.scores(rows)[:, :300]
    pairs = torch.cartesian_prod(rows, rows)
    exact = search.scores_of_distances(pairs[:, 0], search.exact(pairs[:, 0], pairs[:, 1])).view(300, 300)
    error = (coarse.double() - exact).abs().fill_diagonal_(0)
    bound = search.error_bound(rows)[:, None]
    assert (error <= bound).all()
    assert error.max() > 1e-4 * bound.min()  # a bound that says something


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_rows_are_found(dtype: torch.dtype) -> None:
    x = torch.randn(50, 3, dtype=dtype)
    x[[7, 9]] = x[2].clone()
    x[30], x[31] = 0.0, -0.0
    same = Search(x, torch.arange(50)).same
    assert torch.equal(same[:, None] == same, (x[:, None] == x).all(2))


@pytest.mark.parametrize("k", [1, 3, 20, 100])
@pytest.mark.parametrize("width", [16, 96, 4096])
def test_largest_is_topk(k: int, width: int) -> None:
    scores = torch.randn(5, width)
    values, columns = largest(scores, k)
    assert torch.equal(values, scores.topk(min(k, width)).values)
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
