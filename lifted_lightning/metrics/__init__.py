"""Evaluation of embeddings: exact retrieval metrics, clustering metrics and neighbour search."""

from lifted_lightning.metrics.embedding_set import EmbeddingSet, gather_embedding_set
from lifted_lightning.metrics.retrieval import (
    RetrievalMetrics,
    RetrievalResult,
    retrieval,
    retrieval_metrics,
)

__all__ = [
    "EmbeddingSet",
    "RetrievalMetrics",
    "RetrievalResult",
    "gather_embedding_set",
    "retrieval",
    "retrieval_metrics",
]
