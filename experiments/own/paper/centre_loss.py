"""The loss: each image against the centres of all classes, which are remembered."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class CentreMemory(nn.Module):
    r"""Cross-entropy of the similarities to the centres of all classes; a centre is a running mean of its class.

    For embeddings f of unit length, classes y and centres c, the mean over the batch of

    .. math:: -\log \frac{e^{f^T c_y / \tau}}{\sum_k e^{f^T c_k / \tau}} ,

    after the class centroids of Ge, Zhu, Chen, Zhao and Li, *Self-paced Contrastive Learning with Hybrid Memory*,
    NeurIPS 2020. Classes that have not been seen yet are no rivals.

    Centres are buffers: a checkpoint has them. They are computed of the global batch, so every rank has the same.

    Args:
        num_classes: C. The command line tells it, and
        embedding_size: D.
        momentum: the part of a centre that stays when images of its class are seen.
        temperature: tau.
    """

    centres: Tensor
    known: Tensor

    def __init__(self, num_classes: int, embedding_size: int, momentum: float = 0.5, temperature: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.temperature = temperature
        self.register_buffer("centres", torch.zeros(num_classes, embedding_size))
        self.register_buffer("known", torch.zeros(num_classes, dtype=torch.bool))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Embeddings (B, D) and labels (B,) of the global batch to a scalar; in training they move the centres."""
        rows = functional.normalize(embeddings.to(self.centres.dtype))
        if self.training:
            self.move(rows.detach(), labels)
        similarities = rows @ self.centres.clone().T  # of now: another view may move them before the backward pass
        scores = (similarities / self.temperature).masked_fill(~self.known, torch.finfo(rows.dtype).min)
        terms = functional.cross_entropy(scores, labels, reduction="none")
        return torch.where(self.known[labels], terms, 0.0).mean()

    def move(self, rows: Tensor, labels: Tensor) -> None:
        """Move the centres of the classes in a batch towards its rows (B, D); a new class begins at their mean."""
        members = labels == torch.arange(len(self.known), device=labels.device)[:, None]  # (C, B)
        there = members.any(dim=1, keepdim=True)
        means = members.to(rows.dtype) @ rows / members.sum(dim=1, keepdim=True).clamp(min=1)
        kept = self.momentum * self.known[:, None]
        moved = functional.normalize(kept * self.centres + (1 - kept) * means)
        self.centres.copy_(torch.where(there, moved, self.centres))
        self.known.logical_or_(there[:, 0])
