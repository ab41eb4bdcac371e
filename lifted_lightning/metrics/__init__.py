"""Evaluation of embeddings: exact retrieval metrics, clustering metrics and neighbour search."""

from lifted_lightning.metrics.clustering import ClusteringMetrics, clustering_metrics
from lifted_lightning.metrics.embedding_set import EmbeddingSet, gather_embedding_set
from lifted_lightning.metrics.neighbours import nearest
from lifted_lightning.metrics.retrieval import (
    RetrievalMetrics,
    RetrievalResult,
    retrieval,
    retrieval_metrics,
)

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
