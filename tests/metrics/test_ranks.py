"""W ranks give what one process gives, to the last digit, also where the set does not divide."""

from unittest.mock import patch

import pytest
import torch

from lifted_lightning.distributed import rank, world_size
from lifted_lightning.metrics import ClusteringMetrics, RetrievalMetrics
from lifted_lightning.metrics.ranking import Ranker
from tests.helpers.ranks import run_ranks

N = 401
LABELS = torch.arange(N) // 3 % 40
LABELS[0] = 99  # a class of its own
QUERY, GALLERY = range(0, 200), range(150, N)


def data() -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(N, 6, generator=g) + torch.randn(100, 6, generator=g)[LABELS]
    x[100:120] = x[99]
    return x


def evaluate(shares: list[int]) -> dict[str, object]:
    """Each rank takes so many parts of the items; the last repeats some of the first, as padding does."""
    edges = [sum(shares[:r]) * N // sum(shares) for r in range(len(shares) + 1)]
    mine = torch.arange(edges[rank()], edges[rank() + 1])
    if rank() == world_size() - 1:
        mine = torch.cat([mine, torch.arange(5)])
    ranked: list[int] = []
    original = Ranker.rank

    def counting(self: Ranker, queries: torch.Tensor, positives: torch.Tensor) -> object:
        ranked.append(len(queries))
        return original(self, queries, positives)

    whole, apart = RetrievalMetrics(), RetrievalMetrics(query=QUERY, gallery=GALLERY)
    clusters = ClusteringMetrics()
    x = data()
    for metric in (whole, apart, clusters):
        for rows in mine.split(64):
            metric.update(x[rows], LABELS[rows], rows)
    with patch.object(Ranker, "rank", counting):
        metrics = whole.compute()
        others = apart.compute()
    assert whole.result is not None
    assert whole.embedding_set is not None
    return {
        "metrics": metrics,
        "apart": others,
        "clusters": clusters.compute(),
        "ranks": whole.result.rank,
        "averages": whole.result.average_precision,
        "indices": whole.embedding_set.indices,
        "ranked": ranked,
    }


@pytest.mark.parametrize("shares", [pytest.param([1, 2], marks=pytest.mark.slow), [3, 0, 4]])
def test_ranks_agree_with_one_process(shares: list[int]) -> None:
    alone = evaluate([1])
    assert alone["metrics"]["queries_without_positive"] == 1
    assert alone["ranked"][0] == N - 1
    results = run_ranks(evaluate, len(shares), shares)
    for result in results:
        for key in ("metrics", "apart", "clusters"):
            assert result[key] == alone[key], key
        for key in ("ranks", "averages", "indices"):
            assert torch.equal(result[key], alone[key]), key
    for call in range(2):  # each query is ranked once, and each rank ranks its part
        counts = [result["ranked"][call] for result in results]
        assert sum(counts) == alone["ranked"][call]
        assert max(counts) - min(counts) <= 1


def test_reset_forgets() -> None:
    metric = RetrievalMetrics(ks=(1,))
    metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 1]), torch.tensor([4, 2]))
    assert metric.compute()["recall@1"] == 1
    metric.reset()
    assert metric.result is None
    metric.update(torch.tensor([[0.0], [1.0]]), torch.tensor([1, 2]), torch.tensor([4, 2]))
    assert metric.compute()["queries_without_positive"] == 2
    with pytest.raises(ValueError, match="ks"):
        RetrievalMetrics(ks=(0,))
