"""Contrastive loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import check_batch, masks, safe_sqrt, squared_distances


class ContrastiveLoss(nn.Module):
    """Contrastive loss on all pairs of the batch or on the given pairs (rows 2i and 2i+1)."""

    def __init__(self, margin: float = 1.0, pairs: Literal["all", "consecutive"] = "all") -> None:
        super().__init__()
        self.margin = margin
        self.pairs = pairs

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) and labels (B,)."""
        check_batch(embeddings, labels)
        x = embeddings.double()
        if self.pairs == "consecutive":
            even = len(x) // 2 * 2
            squared = (x[0:even:2] - x[1:even:2]).square().sum(1)
            terms = torch.where(
                labels[0:even:2] == labels[1:even:2],
                squared,
                (self.margin - safe_sqrt(squared)).relu().square(),
            )
            value = terms.sum() / (2 * max(len(terms), 1)) + 0 * x.sum()
        else:
            squared = squared_distances(x)
            positive, negative = masks(labels)
            hinge = (self.margin - safe_sqrt(squared)).relu().square()
            value = 0.5 * (
                torch.where(positive, squared, 0).sum() / positive.sum().clamp_min(1)
                + torch.where(negative, hinge, 0).sum() / negative.sum().clamp_min(1)
            )
        return value.to(torch.promote_types(embeddings.dtype, torch.float32))
