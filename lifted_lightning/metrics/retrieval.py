"""Recall@K, R-precision and MAP@R of embeddings: exact, in one pass, on any number of ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.distributed import own_share, sum_over_ranks
from lifted_lightning.metrics.points import Distance, full_precision, prepare
from lifted_lightning.metrics.ranking import Ranker


@dataclass(frozen=True)
class RetrievalResult:
    """How each query fared. Queries without any positive keep their place, with rank 0 and zeros.

    Attributes:
        queries: (Q,) int64, rows of the embeddings.
        labels: (Q,) int64, their classes.
        positives: (Q,) int64: R, the number of other items of the query's class that are searched.
        rank: (Q,) int64, the rank of the nearest positive, from 1; 0 without one. Ties count against.
        r_precision: (Q,) float64, the share of positives among the R nearest.
        average_precision: (Q,) float64, the mean over ranks 1..R of the precision at those that are hits.
    """

    queries: Tensor
    labels: Tensor
    positives: Tensor
    rank: Tensor
    r_precision: Tensor
    average_precision: Tensor

    @property
    def answerable(self) -> Tensor:
        """(Q,) bool: which queries have a positive."""
        return self.positives > 0

    def metrics(self, ks: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
        """Means over the queries that have a positive; NaN if none has.

        Returns:
            ``recall@K`` for each K, ``r_precision``, ``map@r``, and the number of
            ``queries_without_positive``.
        """
        kept = self.answerable
        rank, count = self.rank[kept], int(kept.sum())
        result = {f"recall@{k}": int((rank <= k).sum()) / count if count else float("nan") for k in ks}
        result["r_precision"] = float(self.r_precision[kept].cpu().mean())
        result["map@r"] = float(self.average_precision[kept].cpu().mean())
        result["queries_without_positive"] = float(len(kept) - count)
        return result

    def per_class_recall(self, k: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """Recall@k of each class that has a query with a positive.

        Returns:
            (C,) labels, ascending; (C,) float64 recall; (C,) the number of queries it is the mean of.
        """
        kept = self.answerable
        labels, place, counts = self.labels[kept].unique(return_inverse=True, return_counts=True)
        hits = torch.zeros_like(counts).index_add_(0, place, (self.rank[kept] <= k).long())
        return labels, hits / counts.double(), counts


def retrieval(
    embeddings: Tensor,
    labels: Tensor,
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    distance: Distance = "euclidean",
) -> RetrievalResult:
    """Rank every query's positives among all items but the query itself.

    The answer is that of distances in float64, with ties counted against: a negative exactly as far as a
    positive ranks before it. Within a process group, where every rank must hold the same embeddings, each
    rank ranks its part of the queries, and all get the whole result.

    Recall@K as in Oh Song et al., *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016;
    R-precision and MAP@R as in Musgrave et al., *A Metric Learning Reality Check*, ECCV 2020.

    Args:
        embeddings: (N, D) floating point.
        labels: (N,) int64.
        query: (Q,) rows that are queries, each once; all by default.
        gallery: (G,) rows that are searched, each once; all by default.
        distance: ``"euclidean"`` or ``"cosine"``.

    Raises:
        TypeError: if embeddings are not floating point.
        ValueError: if shapes do not match, or a row is out of range or given twice.
        UserError: if an embedding is not finite.
    """
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, embeddings {tuple(embeddings.shape)}")
    if embeddings.device.type == "mps":  # has no float64
        embeddings = embeddings.cpu()
    labels = labels.to(embeddings.device)
    query = _rows(query, "query", labels)
    gallery = _rows(gallery, "gallery", labels)
    with torch.no_grad(), full_precision():
        points = prepare(embeddings, distance)
        ranker = Ranker(points, labels, gallery)
        positives = _count_positives(labels, query, gallery)
        order = labels[query].argsort(stable=True)
        order = order[positives[order] > 0]
        share = own_share(len(order))
        own = order[share.start : share.stop]
        ranks = ranker.rank(query[own], positives[own])

    def everywhere(values: Tensor) -> Tensor:
        """Values of this rank's share of the queries to all queries' values, on every rank."""
        return sum_over_ranks(values.new_zeros(len(query)).index_put_((own,), values))

    return RetrievalResult(
        query,
        labels[query],
        positives,
        everywhere(ranks.nearest),
        everywhere(ranks.r_precision),
        everywhere(ranks.average_precision),
    )


def _rows(rows: Tensor | None, name: str, labels: Tensor) -> Tensor:
    if rows is None:
        return torch.arange(len(labels), device=labels.device)
    rows = torch.as_tensor(rows, device=labels.device)
    if rows.ndim != 1 or (len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(labels))):
        raise ValueError(f"{name} rows are not a vector of rows within 0..{len(labels) - 1}")
    if len(rows.unique()) != len(rows):
        raise ValueError(f"{name} rows are not distinct")
    return rows.long()


def _count_positives(labels: Tensor, query: Tensor, gallery: Tensor) -> Tensor:
    classes, place = labels.unique(return_inverse=True)
    sizes = torch.bincount(place[gallery], minlength=len(classes))
    searched = torch.zeros_like(labels, dtype=torch.bool)
    searched[gallery] = True
    return sizes[place[query]] - searched[query].long()


def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    ks: Sequence[int] = (1, 2, 4, 8),
    query: Tensor | None = None,
    gallery: Tensor | None = None,
    distance: Distance = "euclidean",
) -> dict[str, float]:
    """Recall@K, R-precision and MAP@R; see :func:`retrieval` and :meth:`RetrievalResult.metrics`."""
    return retrieval(embeddings, labels, query, gallery, distance).metrics(ks)
