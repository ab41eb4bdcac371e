"""torchmetrics of a whole embedding set, which is collected over batches and ranks."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lifted_lightning.distributed import gather_rows
from lifted_lightning.metrics.clustering import Method, Start, clustering_metrics
from lifted_lightning.metrics.embedding_set import EmbeddingSet, gather_embedding_set
from lifted_lightning.metrics.points import Distance
from lifted_lightning.metrics.retrieval import RetrievalResult, retrieval


class EmbeddingMetric(Metric):
    """Collects embeddings over batches and ranks; a subclass computes something of the whole set.

    Each rank gives its own share to ``update``; items that come again, as padded samplers make them, are
    dropped by index. ``compute`` is a collective, and every rank gets its result.

    Attributes:
        embedding_set: after ``compute``, all items, on every rank.
    """

    full_state_update = False
    embeddings: list[Tensor]
    labels: list[Tensor]
    indices: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        # The metric gathers for itself, once: torchmetrics would gather each state, repeats and all.
        super().__init__(sync_on_compute=False, **kwargs)
        self.embedding_set: EmbeddingSet | None = None
        for state in ("embeddings", "labels", "indices"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor, indices: Tensor) -> None:
        """Add a batch: embeddings (b, D), labels (b,), and indices (b,) that identify the items."""
        self.embeddings.append(embeddings.detach().to(torch.promote_types(embeddings.dtype, torch.float32)))
        self.labels.append(labels)
        self.indices.append(indices)

    def reset(self) -> None:
        """Forget all items."""
        super().reset()
        self.embedding_set = None

    def gather(self) -> EmbeddingSet:
        """Join the items of all ranks, and keep them as ``embedding_set``. A collective."""
        width = self.embeddings[0].shape[1] if self.embeddings else 0
        # A rank may have had no items, and then does not know the embedding size.
        width = int(gather_rows(torch.tensor([width], device=self.device)).max())
        none = torch.empty(0, dtype=torch.int64, device=self.device)
        self.embedding_set = gather_embedding_set(
            torch.cat([none, *self.indices]),
            torch.cat([torch.empty(0, width, device=self.device), *self.embeddings]),
            torch.cat([none, *self.labels]),
        )
        return self.embedding_set


class RetrievalMetrics(EmbeddingMetric):
    """Ranks the embeddings of all batches and ranks.

    ``compute`` gathers once, and every rank ranks its part of the queries.

    Args:
        ks: the K of Recall@K.
        query: indices of the items that are queries; all by default.
        gallery: indices of the items that are searched; all by default.
        distance: ``"euclidean"`` or ``"cosine"``.

    Attributes:
        embedding_set: after ``compute``, all items, on every rank.
        result: after ``compute``, how each query fared; its ``queries`` are rows of ``embedding_set``.
    """

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8),
        query: Sequence[int] | Tensor | None = None,
        gallery: Sequence[int] | Tensor | None = None,
        distance: Distance = "euclidean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not ks or any(k < 1 for k in ks):
            raise ValueError(f"ks is {ks!r}: give one or more positive numbers")
        self.ks = tuple(ks)
        self.query = None if query is None else torch.as_tensor(query)
        self.gallery = None if gallery is None else torch.as_tensor(gallery)
        self.distance = distance
        self.result: RetrievalResult | None = None

    def compute(self) -> dict[str, float]:
        """The metrics of all ranks' items, the same on every rank."""
        items = self.gather()
        query, gallery = _rows_of(self.query, items), _rows_of(self.gallery, items)
        self.result = retrieval(items.embeddings, items.labels, query, gallery, self.distance)
        return self.result.metrics(self.ks)

    def reset(self) -> None:
        """Forget all items."""
        super().reset()
        self.result = None


def _rows_of(wanted: Tensor | None, items: EmbeddingSet) -> Tensor | None:
    """The rows of the embedding set that hold the wanted indices, as far as it has them."""
    if wanted is None:
        return None
    return torch.isin(items.indices, wanted.to(items.indices.device)).nonzero()[:, 0]


class ClusteringMetrics(EmbeddingMetric):
    """Clusters the embeddings of all batches and ranks; see :func:`clustering_metrics` for the arguments."""

    def __init__(
        self,
        clusters: int | None = None,
        method: Method = "k-means",
        start: Start = "k-means++",
        distance: Distance = "euclidean",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.clusters = clusters
        self.method = method
        self.start = start
        self.distance = distance
        self.seed = seed

    def compute(self) -> dict[str, float]:
        """``nmi``, ``ami`` and ``f1`` of all ranks' items, the same on every rank."""
        items = self.gather()
        return clustering_metrics(
            items.embeddings, items.labels, self.clusters, self.method, self.start, self.distance, self.seed
        )
