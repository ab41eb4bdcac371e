from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifted_lightning.errors import UserError
from lifted_lightning.metrics import clustering_metrics
from lifted_lightning.metrics.clustering import AFFINITY_LIMIT, agreement

GROUPS = torch.arange(120) % 6


def heaps(spread: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return spread * torch.randn(120, 8, generator=g) + 6 * torch.randn(6, 8, generator=g)[GROUPS]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=40))
def test_f1_and_nmi_by_their_definitions(items: list[tuple[int, int]]) -> None:
    classes, clusters = np.array(items).T
    nmi, _, f1 = agreement(classes, clusters)
    pairs = list(combinations(items, 2))
    claimed = [a[0] == b[0] for a, b in pairs if a[1] == b[1]]
    true = [a[1] == b[1] for a, b in pairs if a[0] == b[0]]
    if claimed and true and any(claimed):
        precision, recall = np.mean(claimed), np.mean(true)
        assert f1 == pytest.approx(2 * precision * recall / (precision + recall))
    else:
        assert f1 == (0.0 if claimed or true else 1.0)

    def entropy(values: np.ndarray) -> float:
        p = np.unique(values, return_counts=True, axis=0)[1] / len(values)
        return -(p * np.log(p)).sum()

    both = entropy(classes) + entropy(clusters)
    information = both - entropy(np.array(items))
    if both > 0:
        assert nmi == pytest.approx(2 * information / both, abs=1e-12)


@pytest.mark.parametrize("method", ["k-means", "affinity propagation"])
def test_clear_heaps_are_found(method: str) -> None:
    assert clustering_metrics(heaps(0.1), GROUPS, method=method) == pytest.approx({"nmi": 1.0, "ami": 1.0, "f1": 1.0})  # type: ignore[arg-type]


def test_a_start_is_reproducible_and_can_be_chosen() -> None:
    x = heaps(4.0)
    first = clustering_metrics(x, GROUPS, start="random", seed=3)
    assert first == clustering_metrics(x, GROUPS, start="random", seed=3)
    assert 0 < first["nmi"] < 1
    assert first != clustering_metrics(x, GROUPS, start="random", seed=4)
    assert first != clustering_metrics(x, GROUPS, start="k-means++", seed=3)


def test_cosine_ignores_length() -> None:
    x = heaps(1.0)
    longer = x * torch.logspace(-1, 1, 120)[:, None]
    assert clustering_metrics(longer, GROUPS, distance="cosine") == pytest.approx(
        clustering_metrics(x, GROUPS, distance="cosine")
    )


def test_collapsed_network_scores_nothing() -> None:
    result = clustering_metrics(torch.ones(60, 4), torch.arange(60) % 6)
    assert result["nmi"] == result["ami"] == 0
    assert result["f1"] == pytest.approx(2 * 270 / (60 * 59) / (1 + 2 * 270 / (60 * 59)) * 2, rel=1e-9)


def test_too_much_for_affinity_propagation_is_said() -> None:
    n = AFFINITY_LIMIT + 1
    with pytest.raises(UserError, match="use k-means"):
        clustering_metrics(torch.zeros(n, 1), torch.zeros(n).long(), method="affinity propagation")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="method is 'foo'"):
        clustering_metrics(torch.eye(4), torch.tensor([0, 0, 1, 1]), method="foo")  # type: ignore[arg-type]
