"""What metrics of a whole embedding set share: collecting it over batches and ranks."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lifted_lightning.distributed import gather_rows
from lifted_lightning.metrics.embedding_set import EmbeddingSet, gather_embedding_set


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
