"""Lifted structure loss."""

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import check_batch, masks, safe_sqrt, squared_distances


class LiftedStructureLoss(nn.Module):
    """Lifted structure loss: eq. 4 of the paper, or eq. 3 with ``smooth=False``."""

    def __init__(self, margin: float = 1.0, smooth: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.smooth = smooth

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) and labels (B,)."""
        check_batch(embeddings, labels)
        distances = safe_sqrt(squared_distances(embeddings.double()))
        positive, negative = masks(labels)
        lift = torch.where(negative, self.margin - distances, -1e30)
        if self.smooth:
            row = lift.logsumexp(1) if len(lift) else lift.sum(1)
            both = torch.logaddexp(row[:, None], row[None, :])
        else:
            row = lift.amax(1) if len(lift) else lift.sum(1)
            both = torch.maximum(row[:, None], row[None, :])
        hinge = torch.where(positive, both + distances, 0).relu()
        value = hinge.square().sum() / (2 * positive.sum().clamp_min(1))
        return value.to(torch.promote_types(embeddings.dtype, torch.float32))
