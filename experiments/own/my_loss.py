"""A loss of one's own: lifted fit --config ../quickstart.yaml --model.loss=my_loss.MarginLoss"""

import torch
from torch import Tensor, nn


class MarginLoss(nn.Module):
    """Pulls images of a class within ``boundary - margin`` of each other, pushes others beyond ``boundary + margin``.

    Wu, Manmatha, Smola and Krähenbühl, *Sampling Matters in Deep Embedding Learning*, ICCV 2017, equation 7, over all
    pairs of the batch that violate the margin; the boundary is learnt.

    Args:
        margin: half the width of the gap between distances of the same class and of different classes.
        boundary: where that gap is at first.
    """

    def __init__(self, margin: float = 0.2, boundary: float = 1.2) -> None:
        super().__init__()
        self.margin = margin
        self.boundary = nn.Parameter(torch.tensor(boundary))  # trained with --model.loss_lr_factor

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D) and labels (B,) of the global batch to a scalar."""
        distances = torch.nn.functional.pdist(embeddings)
        first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)
        sign = torch.where(labels[first] == labels[second], 1.0, -1.0)
        hinges = (self.margin + sign * (distances - self.boundary)).relu()
        return hinges.sum() / (hinges > 0).sum().clamp(min=1)
