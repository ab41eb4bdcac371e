"""Triplet loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import check_batch, masks, safe_sqrt, squared_distances


class TripletLoss(nn.Module):
    """Triplet loss over all, semi-hard or batch-hard triplets."""

    def __init__(
        self,
        margin: float = 0.2,
        squared: bool = False,
        mining: Literal["all", "semihard", "hard"] = "all",
        average: Literal["active", "all"] = "active",
    ) -> None:
        super().__init__()
        self.margin = margin
        self.squared = squared
        self.mining = mining
        self.average = average

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) and labels (B,)."""
        check_batch(embeddings, labels)
        distances = squared_distances(embeddings.double())
        if not self.squared:
            distances = safe_sqrt(distances)
        positive, negative = masks(labels)
        if self.mining == "hard":
            valid = positive.any(1) & negative.any(1)
            if len(distances):
                far = torch.where(positive, distances, -1).amax(1)
                near = torch.where(negative, distances, torch.inf).amin(1)
            else:
                far = near = distances.sum(1)
            hinge = torch.where(valid, far - torch.where(valid, near, 0) + self.margin, 0)
        else:
            valid = positive[:, :, None] & negative[:, None, :]
            hinge = distances[:, :, None] - distances[:, None, :] + self.margin
            if self.mining == "semihard" and len(distances):
                band = valid & (hinge > 0) & (hinge < self.margin)
                hinge = torch.where(band, hinge, -1).amax(2)
                valid = band.any(2)
        hinge = torch.where(valid, hinge, 0).relu()
        count = (hinge > 0).sum() if self.average == "active" else valid.sum()
        value = hinge.sum() / (2 * count.clamp_min(1))
        return value.to(torch.promote_types(embeddings.dtype, torch.float32))
