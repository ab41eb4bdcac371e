"""Embeddings collected over batches and ranks, and all that an evaluation has found of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.distributed import gather_rows
from lifted_lightning.metrics.distances import Array, Distance
from lifted_lightning.metrics.retrieval import RetrievalResult


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


@dataclass(frozen=True)
class Evaluation(EmbeddingSet):
    """All that one evaluation has found, the same on every rank: what metrics, pictures and tables are made of.

    Attributes:
        ranking: how each query fared, and which items are nearest to it. Its ``queries`` and ``nearest`` are items:
            ``evaluation.labels[evaluation.ranking.nearest]`` are the classes of each query's nearest images.
        stage: ``validation`` or ``test``.
        step: how many steps the network had trained.
        distance: what neighbours are ranked by.
        values: the metrics by name, ``recall@1`` and the like.
    """

    ranking: RetrievalResult
    stage: str
    step: int
    distance: Distance
    values: dict[str, float]
