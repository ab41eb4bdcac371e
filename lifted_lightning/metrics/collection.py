"""Embeddings collected over batches and ranks, and all that an evaluation has found of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lifted_lightning.distributed import gather_rows
from lifted_lightning.metrics.distances import Array, Distance
from lifted_lightning.metrics.retrieval import RetrievalResult, rank_queries


@dataclass(frozen=True)
class EmbeddingSet:
    """Embedded images, each once, in the order of the image table. Item i is row i of each attribute.

    Attributes:
        rows: (N,) int64, rows of the image table; strictly ascending.
        embeddings: (N, D) floating point.
        labels: (N,) int64.
    """

    rows: Tensor
    embeddings: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def gather(cls, batches: Sequence[tuple[Tensor, Tensor, Tensor]], device: torch.device) -> "EmbeddingSet":
        """Join the batches of all ranks, on every rank: a collective.

        Ranks may hold different numbers of images, or none, and the same one more than once, as padded samplers make
        them: of an image that comes again, the first is kept.

        Args:
            batches: of this rank, each the rows (b,) of the image table, embeddings (b, D) and labels (b,).
            device: where a rank that has none takes part.
        """
        # Single precision at least; a rank without images does not know the embedding size.
        width = int(gather_rows(torch.tensor([batches[0][1].shape[1] if batches else 0], device=device)).max())
        none = torch.empty(0, dtype=torch.int64, device=device)
        rows, embeddings, labels = zip((none, torch.empty(0, width, device=device), none), *batches, strict=True)
        ordered, order = gather_rows(torch.cat(rows)).sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        kept = order[first]
        return cls(ordered[first], gather_rows(torch.cat(embeddings))[kept], gather_rows(torch.cat(labels))[kept])

    def items(self, rows: Array | None) -> Tensor | None:
        """(n,) the items that stand in these rows of the image table, as far as they are there; None for None."""
        if rows is None:
            return None
        return torch.isin(self.rows, torch.as_tensor(rows, device=self.rows.device)).nonzero()[:, 0]


class RetrievalMetrics(Metric):
    """Recall@K, R-precision and MAP@R of all embeddings of all batches and ranks, as a metric of torchmetrics.

    Each rank gives its own share to ``update``; an image that comes again, as padded samplers make them, is dropped by
    its row. ``compute`` is a collective: each rank ranks its part of the queries, and all get the result.

    Args:
        ks: the K of Recall@K.
        query: rows of the image table that are queries; all by default.
        gallery: rows that are searched; all by default.
        distance: ``"euclidean"`` or ``"cosine"``.
        neighbours: how many of the nearest images of each query to keep.
        cameras: of each row of the image table; images of a query's own class and camera do not count.

    Attributes:
        items: after ``compute``, all images, on every rank.
        ranking: after ``compute``, how each query fared; its items are those of ``items``.
    """

    full_state_update = False
    rows: list[Tensor]
    embeddings: list[Tensor]
    labels: list[Tensor]
    items: EmbeddingSet
    ranking: RetrievalResult

    def __init__(
        self,
        ks: Sequence[int] = (1, 2, 4, 8),
        query: Array | None = None,
        gallery: Array | None = None,
        distance: Distance = "euclidean",
        neighbours: int = 1,
        cameras: Array | None = None,
        **kwargs: Any,
    ) -> None:
        # Gathered once, by row: torchmetrics would gather each state, repeats and all.
        super().__init__(sync_on_compute=False, **kwargs)
        self.ks, self.query, self.gallery = ks, query, gallery
        self.distance: Distance = distance
        self.neighbours = neighbours
        self.cameras = cameras
        for state in ("rows", "embeddings", "labels"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, embeddings: Tensor, labels: Tensor, rows: Tensor) -> None:
        """Add a batch: embeddings (b, D), labels (b,), and the rows (b,) of the image table that they are of."""
        self.rows.append(rows)
        self.embeddings.append(embeddings.detach())
        self.labels.append(labels)

    def compute(self) -> dict[str, float]:
        """The metrics by name, see ``RetrievalResult.metrics``."""
        batches = list(zip(self.rows, self.embeddings, self.labels, strict=True))
        items = self.items = EmbeddingSet.gather(batches, self.device)
        query, gallery = items.items(self.query), items.items(self.gallery)
        cameras = None if self.cameras is None else torch.as_tensor(self.cameras)[items.rows.cpu()]
        self.ranking = rank_queries(
            items.embeddings, items.labels, query, gallery, self.distance, self.neighbours, cameras
        )
        return self.ranking.metrics(self.ks)


@dataclass(frozen=True)
class Evaluation(EmbeddingSet):
    """All that one evaluation has found, the same on every rank: what metrics, pictures and tables are made of.

    Attributes:
        ranking: how each query fared, and which items are nearest to it. Its ``queries`` and ``nearest`` are items:
            ``evaluation.labels[evaluation.ranking.nearest]`` are the classes of each query's nearest images.
        stage: ``validation`` or ``test``.
        step: how many steps the network had trained.
        values: the metrics by name, ``recall@1`` and the like.
    """

    ranking: RetrievalResult
    stage: str
    step: int
    values: dict[str, float]

    def confusions(self) -> tuple[Tensor, Tensor]:
        """Which classes are taken for which: a query's class, and the other one that its nearest image is of.

        Queries without a positive, as the only image of a class is, do not count. Where a negative is exactly as near
        as the nearest positive, which may stand first then, the query is wrong, but takes its class for no other.

        Returns:
            On the CPU (P, 2) int64 labels, the query's class first, each pair once; (P,) int64 the number of such
            queries, most first. P is at most the number of queries.
        """
        wrong = self.ranking.rank > 1
        both = [self.ranking.labels[wrong], self.labels[self.ranking.nearest[wrong, :1].flatten()]]
        pairs = torch.stack(both, dim=1).cpu()  # few, and not every device counts pairs
        pairs, times = pairs[pairs[:, 0] != pairs[:, 1]].unique(dim=0, return_counts=True)
        order = times.argsort(descending=True, stable=True)
        return pairs[order], times[order]
