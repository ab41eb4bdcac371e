"""The losses once more, for autograd in float64: every pair's difference vector, every triplet's hinge.

The loops of `losses.py` are the truth for values; this is the truth for gradients, with distances from
explicit differences of centred rows and the whole (B, B, D), or (B, B, B), tensor in memory.
"""

import torch
from torch import Tensor


def _distances(x: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances and distances (B, B), with derivative 0 where a distance is 0."""
    squared = (x[:, None] - x[None, :]).square().sum(2)
    apart = squared > 0
    return squared, torch.where(apart, torch.where(apart, squared, 1).sqrt(), squared)


def _masks(labels: Tensor) -> tuple[Tensor, Tensor]:
    same = labels[:, None] == labels[None, :]
    return same & ~torch.eye(len(labels), dtype=torch.bool), ~same


def contrastive(x: Tensor, labels: Tensor, margin: float, average: str, squared: bool) -> Tensor:
    """All pairs of the batch, the mean over the active or all negatives."""
    squares, distances = _distances(x)
    positive, negative = _masks(labels)
    hinge = (margin - distances).relu()
    pull = torch.where(positive, squares if squared else distances, 0).sum() / positive.sum().clamp_min(1)
    counted = negative & (distances < margin) if average == "active" else negative
    push = torch.where(negative, hinge.square() if squared else hinge, 0).sum() / counted.sum().clamp_min(1)
    return (pull + push) / 2


def lifted(x: Tensor, labels: Tensor, margin: float, smooth: float) -> Tensor:
    """Eq. 4 at the temperature smooth, or eq. 3."""
    _, distances = _distances(x)
    positive, negative = _masks(labels)
    lift = torch.where(negative, margin - distances, -1e300)
    both = torch.cat([lift[:, None].expand(-1, len(x), -1), lift[None].expand(len(x), -1, -1)], 2)
    terms = (smooth * (both / smooth).logsumexp(2) if smooth else both.amax(2)) + distances
    return torch.where(positive, terms, 0).relu().square().sum() / (2 * positive.sum().clamp_min(1))


def triplet(x: Tensor, labels: Tensor, margin: float, squared: bool, mining: str, average: str) -> Tensor:
    """All, semi-hard or batch-hard triplets."""
    square, distances = _distances(x)
    measure = square if squared else distances
    positive, negative = _masks(labels)
    valid = positive[:, :, None] & negative[:, None, :]
    hinge = measure[:, :, None] - measure[:, None, :] + margin
    if mining == "semihard":
        valid = valid & (distances[:, :, None] < distances[:, None, :]) & (hinge > 0)
        hinge, valid = torch.where(valid, hinge, -1).amax(2), valid.any(2)
    elif mining == "hard":
        hinge, valid = torch.where(valid, hinge, -torch.inf).amax((1, 2)), valid.any(2).any(1)
    hinge = torch.where(valid, hinge, 0).relu()
    count = (hinge > 0).sum() if average == "active" else valid.sum()
    return hinge.sum() / (2 * count.clamp_min(1))
