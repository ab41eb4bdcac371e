"""Supervised contrastive learning (Khosla et al., NeurIPS 2020), which needs two random views of each image.

lifted fit --config ../quickstart.yaml --model=two_views.TwoViews \
  --model.loss=two_views.SupervisedContrastiveLoss
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from lifted_lightning import EmbeddingModule


class TwoViews(EmbeddingModule):
    """Any loss, of a batch in which every image comes twice: its second view is one more positive."""

    def compute_loss(self, batch: dict[str, Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss of both views of the global batch; ``embeddings`` (B, D) are of the first."""
        second = self.embed_view(batch)
        return self.loss(torch.cat([embeddings, second]), torch.cat([labels, labels]))


class SupervisedContrastiveLoss(nn.Module):
    """The paper's equation 2, at length one."""

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D) and labels (B,) to a scalar."""
        rows = functional.normalize(embeddings)
        itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        scores = (rows @ rows.T / self.temperature).masked_fill(itself, -torch.inf)
        positive = (labels[:, None] == labels) & ~itself
        likelihood = torch.where(positive, scores - scores.logsumexp(dim=1, keepdim=True), 0.0)
        return -(likelihood.sum(dim=1) / positive.sum(dim=1).clamp(min=1)).mean()
