"""Distances and masks that the losses share."""

import torch
from torch import Tensor


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Raise ValueError or TypeError unless embeddings are (B, D) float and labels (B,) integer."""
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have shape (B, D), not {tuple(embeddings.shape)}")
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating point, not {embeddings.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels must have shape ({len(embeddings)},), not {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, not {labels.dtype}")


def squared_distances(x: Tensor) -> Tensor:
    """Squared Euclidean distances (B, B)."""
    return (x[:, None] - x[None, :]).square().sum(2)


def safe_sqrt(squared: Tensor) -> Tensor:
    """Square root whose gradient is 0 at 0."""
    return torch.where(squared > 0, squared.where(squared > 0, 1).sqrt(), 0)


def masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positive pairs (same class, not itself) and negative pairs, each (B, B) bool."""
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~same
