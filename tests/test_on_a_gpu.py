"""Metrics and figures of a batch come out on a GPU as they do on the CPU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lifted_lightning.callbacks.diagnostics import batch_figures
from lifted_lightning.metrics import clustering_metrics, nearest, rank_queries
from lifted_lightning.metrics.collection import RetrievalMetrics
from tests.helpers.embeddings import make

ROWS = torch.arange(0, 400, 3)  # queries; the others are the gallery
OTHERS = torch.arange(400)[torch.arange(400) % 3 > 0]


def collected(x: Tensor, labels: Tensor) -> dict[str, float]:
    metric = RetrievalMetrics(query=ROWS, gallery=OTHERS, distance="cosine").to(x.device)
    metric.update(x, labels, torch.arange(len(x), device=x.device))
    return metric.compute()


COMPUTED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "ranking": lambda x, labels: vars(rank_queries(x, labels, neighbours=5)),
    "recall of classes": lambda x, labels: rank_queries(x, labels).per_class_recall(),
    "collected": collected,
    "nearest of few": lambda x, labels: nearest(x[:3], x, 7, exclude=torch.arange(3)),
    "nearest of many": lambda x, labels: nearest(x[:100], x, 7, distance="cosine"),
    "clustering": lambda x, labels: clustering_metrics(x, labels),
    "figures of a batch": batch_figures,
}


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["random", "quantised", "two tight heaps", "far off"])
@pytest.mark.parametrize("name", COMPUTED)
def test_as_on_the_cpu(name: str, kind: str) -> None:
    x, labels = make(kind, 400, 6, 20, seed=0)
    expected, found = COMPUTED[name](x, labels), COMPUTED[name](x.cuda(), labels.cuda())
    torch.testing.assert_close(found, expected, check_device=False, rtol=1e-5, atol=1e-7, equal_nan=True)
