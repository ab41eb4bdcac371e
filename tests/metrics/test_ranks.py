"""W ranks give what one process gives, to the last digit, also where the set does not divide."""

from unittest.mock import patch

import pytest
import torch

from lifted_lightning.distributed import rank, world_size
from lifted_lightning.metrics import clustering_metrics, rank_queries
from lifted_lightning.metrics.collection import RetrievalMetrics
from lifted_lightning.metrics.search import Search
from tests.helpers.ranks import run_ranks

N = 401
LABELS = torch.arange(N) // 3 % 40
LABELS[0] = 99  # a class of its own
QUERY, GALLERY = torch.arange(200), torch.arange(150, N)
CAMERAS = torch.arange(N) % 2


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
    scores = Search.scores

    def counting(self: Search, queries: torch.Tensor) -> torch.Tensor:
        ranked.append(len(queries))
        return scores(self, queries)

    x = data()
    metrics = RetrievalMetrics(neighbours=3), RetrievalMetrics(query=QUERY, gallery=GALLERY, cameras=CAMERAS)
    for rows in mine.split(64):
        for metric in metrics:
            metric.update(x[rows], LABELS[rows], rows)
    with patch.object(Search, "scores", counting):
        values = [metric.compute() for metric in metrics]
    items, (whole, apart) = metrics[0].items, (metric.ranking for metric in metrics)
    assert values[1] == rank_queries(x, LABELS, QUERY, GALLERY, cameras=CAMERAS).metrics()
    return {
        "metrics": values[0],
        "apart": values[1],
        "clusters": clustering_metrics(items.embeddings, items.labels),
        "rows": items.rows,
        **{f"whole {name}": values for name, values in vars(whole).items()},
        **{f"apart {name}": values for name, values in vars(apart).items()},
        "ranked": sum(ranked),
    }


@pytest.mark.parametrize("shares", [pytest.param([1, 2], marks=pytest.mark.slow), [3, 0, 4]])
def test_ranks_agree_with_one_process(shares: list[int]) -> None:
    alone = evaluate([1])
    assert alone["metrics"]["queries_without_positive"] == 1
    assert alone["ranked"] == N + len(QUERY)
    results = run_ranks(evaluate, len(shares), shares)
    for result in results:
        for key, value in alone.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(result[key], value), key
            elif key != "ranked":
                assert result[key] == value, key
    counts = [result["ranked"] for result in results]  # each query is ranked once, and each rank ranks its part
    assert sum(counts) == alone["ranked"]
    assert max(counts) - min(counts) <= 2
