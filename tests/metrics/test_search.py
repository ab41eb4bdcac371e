from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

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
@settings(max_examples=50)
@given(st.sampled_from(KINDS), st.integers(1, 50), st.integers(1, 20), st.integers(0, 2), st.integers(0, 2**31))
def test_equals_sorting_all_distances(name: str, kind: str, n: int, k: int, itself: int, seed: int) -> None:
    gallery, _ = make(kind, n, 3, 1, seed)
    queries = gallery if itself else torch.cat([gallery[::2], make(kind, 5, 3, 1, seed + 1)[0]])
    exclude = torch.arange(n).where(torch.arange(n) % itself == 0, -itself) if itself else None  # of 2, every other
    with way(name):
        distances, rows = nearest(queries, gallery, k, exclude)
    full = np.sqrt(((queries.double().numpy()[:, None] - gallery.double().numpy()) ** 2).sum(-1))
    if itself:
        full[range(0, n, itself), range(0, n, itself)] = np.inf
    order = np.argsort(full, axis=1, kind="stable")[:, : min(k, n - bool(itself))]
    assert np.array_equal(rows.numpy(), order)
    assert np.allclose(distances.numpy(), np.take_along_axis(full, order, 1), rtol=1e-12, atol=0)


@settings(max_examples=60)
@given(
    st.sampled_from([*KINDS, "zero"]), st.integers(2, 50), st.sampled_from(["float32", "float64", "mixed"]),
    st.booleans(),
)  # fmt: skip
def test_every_way_gives_the_same_bits(kind: str, n: int, dtype: str, cosine: bool) -> None:
    x = torch.zeros(n, 9) if kind == "zero" else make(kind, n, 9, 1, n)[0]
    gallery = x.double() if dtype == "float64" else x
    queries, exclude = gallery[:3] * (1 + 1e-9), torch.tensor([0, -1, 1])[: min(n, 3)]
    queries = queries.double() if dtype == "mixed" else queries
    found = []
    for name in ("one block", "directly"):
        with way(name):
            found.append(nearest(queries, gallery, 5, exclude, "cosine" if cosine else "euclidean"))
    for by_scores, direct in zip(*found, strict=True):
        assert torch.equal(by_scores, direct)


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", ["one block", "directly"])
def test_near_ties_that_single_precision_cannot_tell(name: str, distance: Literal["euclidean", "cosine"]) -> None:
    g = torch.Generator().manual_seed(0)
    gallery = torch.nn.functional.normalize(torch.randn(40, 32, generator=g)).repeat(100, 1)
    gallery += 1e-6 * torch.randn(4000, 32, generator=g)  # forty heaps
    exact, query = gallery.double(), torch.randn(20, 32, generator=g)
    single = torch.cdist(query, gallery, compute_mode="donot_use_mm_for_euclid_dist").argsort(dim=1, stable=True)
    if distance == "cosine":
        exact, true = (torch.nn.functional.normalize(rows.double()) for rows in (exact, query))
    else:
        true = query.double()
    order = (exact - true[:, None]).square().sum(2).argsort(dim=1, stable=True)[:, :150]
    with way(name):
        assert torch.equal(nearest(query, gallery, 150, distance=distance)[1], order)
    assert not torch.equal(single[:, :150], order)


def test_cosine_ignores_length() -> None:
    gallery = torch.tensor([[5.0, 0.0], [0.1, 0.1], [0.0, 1.0]])
    distances, rows = nearest(torch.tensor([[1.0, 0.9]]), gallery, 3, distance="cosine")
    assert rows.tolist() == [[1, 0, 2]]
    assert distances[0, 0] == pytest.approx((2 - 2 * 1.9 / (2 * 1.81) ** 0.5) ** 0.5, rel=1e-6)


def test_wrong_input_is_refused() -> None:
    for message, shape, k, distance in (
        ("queries have shape", (4, 2), 1, "euclidean"),
        ("distance is 'l1'", (5, 3), 1, "l1"),
        ("k is 0", (4, 3), 0, "euclidean"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest(torch.zeros(2, 3), torch.zeros(shape), k, distance=distance)  # type: ignore[arg-type]
