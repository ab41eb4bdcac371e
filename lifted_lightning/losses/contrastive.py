"""Contrastive loss: positives together, negatives at least a margin apart."""

from typing import Literal

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import (
    Laplacian,
    PairBlocks,
    Terms,
    active_share,
    check_batch,
    over_distance_,
    pair_loss,
    wide_dtype,
)


class ContrastiveLoss(nn.Module):
    r"""Contrastive loss (Hadsell, Chopra, LeCun, CVPR 2006) as in Oh Song et al., CVPR 2016, section 3.

    ``pairs="consecutive"`` is the paper's form, on the m/2 given pairs (rows 2i and 2i+1; y is 1 for one
    class, 0 for two),

    .. math:: J = \frac{1}{m} \sum_{(i,j)} \big[ y D_{ij}^2 + (1 - y) \max(0, \alpha - D_{ij})^2 \big] .

    A last row without a partner is left out. ``pairs="all"`` takes every pair of the batch, and averages the
    positive pairs P and the far more numerous negative pairs N apart:

    .. math:: J = \frac{1}{2|P|} \sum_{P} D_{ij}^2 + \frac{1}{2|N|} \sum_{N} \max(0, \alpha - D_{ij})^2 .

    At the edges: a mean over no pairs is 0, so that a batch of singletons still pushes and one of a single
    class still pulls; an empty batch or a single row give 0 with a zero gradient. The derivative of a
    distance that is 0 is 0.

    Args:
        margin: α, the distance beyond which a negative pair costs nothing.
        pairs: all pairs of the batch, or the given ones.
    """

    def __init__(self, margin: float = 1.0, pairs: Literal["all", "consecutive"] = "all") -> None:
        super().__init__()
        if pairs not in ("all", "consecutive"):
            raise ValueError(f"pairs must be 'all' or 'consecutive', not {pairs!r}")
        self.margin = margin
        self.pairs = pairs

    def extra_repr(self) -> str:
        return f"margin={self.margin}, pairs={self.pairs!r}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        if self.pairs == "consecutive":
            return contrastive_loss_of_given(embeddings, labels, self.margin)
        return contrastive_loss(embeddings, labels, self.margin)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the negative pairs that are closer than the margin."""
        if self.pairs == "consecutive":
            with torch.no_grad():
                squared, positive = _given(embeddings, labels)
                share = (~positive & (squared.sqrt() < self.margin)).sum() / (~positive).sum().clamp_min(1)
            return {"active_share": share.float()}
        return {"active_share": active_share(embeddings, labels, lambda p, g: _terms(p, g, self.margin))}


def contrastive_loss(embeddings: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """The contrastive loss of all pairs; see :class:`ContrastiveLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin))


def contrastive_loss_of_given(embeddings: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """The contrastive loss of the pairs (rows 2i and 2i+1); see :class:`ContrastiveLoss`."""
    squared, positive = _given(embeddings, labels)
    apart = squared > 0
    distances = torch.where(apart, torch.where(apart, squared, 1).sqrt(), squared)  # no infinite slope at 0
    terms = torch.where(positive, squared, (margin - distances).relu().square())
    value = terms.sum() / (2 * max(len(terms), 1)) + 0 * embeddings.sum(dtype=terms.dtype)
    return value.to(torch.promote_types(embeddings.dtype, torch.float32))


def _given(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance, and whether it is one class, of the pairs (2i, 2i+1): each (B // 2,)."""
    check_batch(embeddings, labels)
    even = len(embeddings) // 2 * 2
    x = embeddings.to(wide_dtype(embeddings.device))
    return (x[0:even:2] - x[1:even:2]).square().sum(1), labels[0:even:2] == labels[1:even:2]


def _terms(pairs: PairBlocks, with_gradient: bool, margin: float) -> Terms:
    """Value and gradient of the form on all pairs, in one sweep."""
    positives, negatives = pairs.positives.sum().clamp_min(2) / 2, pairs.negatives.sum().clamp_min(2) / 2
    pull, push, active = pairs.x.new_zeros(()), pairs.x.new_zeros(()), pairs.x.new_zeros(())
    laplacian = Laplacian(pairs.x)
    for block in pairs.blocks:
        positive, near, far = pairs.split(block)
        pull += torch.where(positive, near, 0).square_().sum()
        hinge = (margin - far).relu_()
        push += torch.linalg.vector_norm(hinge).square()
        active += torch.count_nonzero(hinge)
        if with_gradient:
            weights = over_distance_(hinge, far)
            weights[:, : positive.shape[1]] -= positive * (negatives / positives)
            laplacian.add_(weights, block.rows, block.columns, -1)
    gradient = laplacian.gradient().div_(negatives) if with_gradient else None
    return Terms((pull / positives + push / negatives) / 2, gradient, active / negatives)
