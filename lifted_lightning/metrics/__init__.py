"""Evaluation of embeddings: exact retrieval metrics, clustering metrics and neighbour search."""

from typing import TYPE_CHECKING, Any

from lifted_lightning.metrics.clustering import clustering_metrics
from lifted_lightning.metrics.embedding_set import EmbeddingSet, gather_embedding_set
from lifted_lightning.metrics.neighbours import nearest
from lifted_lightning.metrics.retrieval import (
    RetrievalResult,
    retrieval,
    retrieval_metrics,
)

if TYPE_CHECKING:
    from lifted_lightning.metrics.collection import ClusteringMetrics, RetrievalMetrics

__all__ = [
    "ClusteringMetrics",
    "EmbeddingSet",
    "RetrievalMetrics",
    "RetrievalResult",
    "clustering_metrics",
    "gather_embedding_set",
    "nearest",
    "retrieval",
    "retrieval_metrics",
]


def __getattr__(name: str) -> Any:
    """The torchmetrics, when they are asked for: importing torchmetrics takes seconds, and a search needs none."""
    if name in ("ClusteringMetrics", "RetrievalMetrics"):
        from lifted_lightning.metrics import collection

        return getattr(collection, name)
    raise AttributeError(f"module 'lifted_lightning.metrics' has no attribute {name!r}")
