"""Evaluation of embeddings: exact retrieval metrics, clustering metrics and exact search.

What gathers over batches and ranks, and the ``Evaluation`` that callbacks are given, are in ``metrics.collection``.
"""

from lifted_lightning.metrics.clustering import clustering_metrics
from lifted_lightning.metrics.retrieval import RetrievalResult, rank_queries, retrieval_metrics
from lifted_lightning.metrics.search import nearest

__all__ = ["RetrievalResult", "clustering_metrics", "nearest", "rank_queries", "retrieval_metrics"]
