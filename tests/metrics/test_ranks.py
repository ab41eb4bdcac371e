"""W ranks give what one process gives, to the last digit, also where the set does not divide."""

from unittest.mock import patch

import pytest
import torch

from lifted_lightning.distributed import rank, world_size
from lifted_lightning.metrics import clustering_metrics, rank_queries
from lifted_lightning.metrics.collection import EmbeddingSet
from lifted_lightning.metrics.search import Search
from tests.helpers.ranks import run_ranks

N = 401
LABELS = torch.arange(N) // 3 % 40
LABELS[0] = 99  # a class of its own
QUERY, GALLERY = torch.arange(200), torch.arange(150, N)


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
    items = EmbeddingSet.gather([(rows, x[rows], LABELS[rows]) for rows in mine.split(64) if len(rows)], x.device)
    with patch.object(Search, "scores", counting):
        whole = rank_queries(items.embeddings, items.labels, neighbours=3)
        apart = rank_queries(items.embeddings, items.labels, items.items(QUERY), items.items(GALLERY))
    return {
        "metrics": whole.metrics(),
        "apart": apart.metrics(),
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
