from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lifted_lightning.metrics import nearest, search
from tests.helpers.embeddings import KINDS, blocks, make


@contextmanager
def way(name: str) -> Iterator[None]:
    """A way to search: by scores, in one block or in small ones, or by the distances of all items."""
    with pytest.MonkeyPatch.context() as patch, blocks(name == "small blocks"):
        patch.setattr(search, "FEW", 1000 if name == "directly" else 0)
        yield


@pytest.mark.parametrize("name", ["one block", "small blocks", "directly"])
@settings(max_examples=40)
@given(st.sampled_from(KINDS), st.integers(1, 50), st.integers(1, 20), st.booleans(), st.integers(0, 2**31))
def test_equals_sorting_all_distances(name: str, kind: str, n: int, k: int, itself: bool, seed: int) -> None:
    gallery, _ = make(kind, n, 3, 1, seed)
    queries = gallery if itself else torch.cat([gallery[::2], make(kind, 5, 3, 1, seed + 1)[0]])
    exclude = torch.arange(n) if itself else None
    with way(name):
        distances, rows = nearest(queries, gallery, k, exclude)
    full = np.sqrt(((queries.double().numpy()[:, None] - gallery.double().numpy()) ** 2).sum(-1))
    if itself:
        np.fill_diagonal(full, np.inf)
    order = np.argsort(full, axis=1, kind="stable")[:, : min(k, n - itself)]
    assert np.array_equal(rows.numpy(), order)
    assert np.allclose(distances.numpy(), np.take_along_axis(full, order, 1), rtol=1e-12, atol=0)


@settings(max_examples=40)
@given(
    st.sampled_from([*KINDS, "zero"]),
    st.integers(2, 50),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
)
def test_every_way_gives_the_same_bits(kind: str, n: int, dtype: str, cosine: bool) -> None:
    x = torch.zeros(n, 9) if kind == "zero" else make(kind, n, 9, 1, n)[0]
    gallery = x.to(getattr(torch, dtype))
    queries, exclude = gallery[:3].clone(), torch.tensor([0, -1, 1])[: min(n, 3)]
    found = []
    for name in ("one block", "directly"):
        with way(name):
            found.append(nearest(queries, gallery, 5, exclude, "cosine" if cosine else "euclidean"))
    for by_scores, direct in zip(*found, strict=True):
        assert torch.equal(by_scores, direct)


def test_excluding_nothing_for_some_queries() -> None:
    gallery = torch.tensor([[0.0], [1.0], [3.0]])
    rows = nearest(gallery, gallery, 2, torch.tensor([0, -1, 2]))[1]
    assert rows.tolist() == [[1, 2], [1, 0], [1, 0]]


def test_cosine_ignores_length() -> None:
    gallery = torch.tensor([[5.0, 0.0], [0.1, 0.1], [0.0, 1.0]])
    distances, rows = nearest(torch.tensor([[1.0, 0.9]]), gallery, 3, distance="cosine")
    assert rows.tolist() == [[1, 2, 0]] or rows.tolist() == [[1, 0, 2]]
    assert distances[0, 0] == pytest.approx((2 - 2 * 1.9 / (2 * 1.81) ** 0.5) ** 0.5, rel=1e-6)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="queries have shape"):
        nearest(torch.randn(2, 3), torch.randn(4, 2), 1)
    with pytest.raises(ValueError, match="distance is 'l1'"):
        nearest(torch.zeros(2, 3), torch.zeros(5, 3), 1, distance="l1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k is 0"):
        nearest(torch.randn(2, 3), torch.randn(4, 3), 0)
