"""The embedding set: (index, embedding, label) of each item exactly once, whatever the number of ranks."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.distributed import gather_rows


@dataclass(frozen=True)
class EmbeddingSet:
    """Embedded items, each once, in ascending order of index.

    Attributes:
        indices: (N,) int64, rows of the image table; strictly ascending.
        embeddings: (N, D) floating point.
        labels: (N,) int64.
    """

    indices: Tensor
    embeddings: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    @classmethod
    def from_rows(cls, indices: Tensor, embeddings: Tensor, labels: Tensor) -> "EmbeddingSet":
        """Sort rows by index and keep the first of each index.

        Raises:
            ValueError: if the three do not describe the same number of items.
        """
        if not len(indices) == len(embeddings) == len(labels):
            raise ValueError(f"{len(indices)} indices, {len(embeddings)} embeddings, {len(labels)} labels")
        ordered, order = indices.sort(stable=True)
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        keep = order[first]
        return cls(indices[keep], embeddings[keep], labels[keep])


def gather_embedding_set(indices: Tensor, embeddings: Tensor, labels: Tensor) -> EmbeddingSet:
    """Join every rank's rows into one embedding set, on every rank.

    Ranks may hold different numbers of rows, and the same item more than once, as padded samplers make them.

    Args:
        indices: (n,) int64, what identifies an item.
        embeddings: (n, D) floating point.
        labels: (n,) int64.
    """
    return EmbeddingSet.from_rows(gather_rows(indices), gather_rows(embeddings), gather_rows(labels))
