"""Contrastive loss: positives together, negatives at least a margin apart."""

from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError
from lifted_lightning.losses.pairs import (
    Average,
    Laplacian,
    PairBlocks,
    References,
    Terms,
    active_share,
    added,
    check_batch,
    checked_margin,
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

    ``average`` says what N counts: all negative pairs, or those whose hinge is above 0 (``"active"``), so that
    the few hard ones are not averaged away. With ``squared=False`` both terms are linear,
    :math:`D_{ij}` and :math:`\max(0, \alpha - D_{ij})`; with ``average="active"`` that is half the form of
    Musgrave, Belongie, Lim (ECCV 2020), which learns far more in our trials: the default. The paper's form is
    ``margin=1, pairs="consecutive", average="all", squared=True``.

    Against references the pairs of all are those of a row i of the batch and a reference j.

    At the edges: a mean over no pairs is 0, so that a batch of singletons still pushes and one of a single
    class still pulls; an empty batch or a single row give 0 with a zero gradient. The derivative of a
    distance that is 0 is 0.

    Args:
        margin: α, the distance beyond which a negative pair costs nothing.
        pairs: all pairs of the batch, or the given ones.
        average: over all negative pairs or the active ones; of given pairs, all.
        squared: whether the terms are squared.

    Raises:
        UserError: for a margin that is negative or not finite, for the active ones of given pairs, and, when called,
            for given pairs with references.
        ValueError: for another word.
    """

    def __init__(
        self,
        margin: float = 1.0,
        pairs: Literal["all", "consecutive"] = "all",
        average: Average = "active",
        squared: bool = False,
    ) -> None:
        super().__init__()
        if pairs not in ("all", "consecutive"):
            raise ValueError(f"pairs must be 'all' or 'consecutive', not {pairs!r}")
        if average not in ("all", "active"):
            raise ValueError(f"average must be 'all' or 'active', not {average!r}")
        if (pairs, average) == ("consecutive", "active"):
            raise UserError("pairs=consecutive: give average=all too; the paper's form has squared=true as well")
        self.margin = checked_margin(margin)
        self.pairs = pairs
        self.average: Average = average
        self.squared = squared

    def extra_repr(self) -> str:
        return f"margin={self.margin}, pairs={self.pairs!r}, average={self.average!r}, squared={self.squared}"

    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None = None) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        if self.pairs == "consecutive":
            if references is not None:
                raise UserError("pairs=consecutive: given pairs are none with a memory; leave out pairs")
            return contrastive_loss_of_given(embeddings, labels, self.margin, self.squared)
        return contrastive_loss(embeddings, labels, self.margin, self.average, self.squared, references)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the negative pairs that are closer than the margin."""
        if self.pairs == "consecutive":
            with torch.no_grad():
                squares, positive = _given(embeddings, labels)
                share = (~positive & (squares.sqrt() < self.margin)).sum() / (~positive).sum().clamp_min(1)
            return {"active_share": share.float()}
        return {
            "active_share": active_share(
                embeddings, labels, lambda p, g: _terms(p, g, self.margin, "all", self.squared)
            )
        }


def contrastive_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 1.0,
    average: Average = "active",
    squared: bool = False,
    references: References | None = None,
) -> Tensor:
    """The contrastive loss of all pairs; see :class:`ContrastiveLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin, average, squared), references)


def contrastive_loss_of_given(embeddings: Tensor, labels: Tensor, margin: float, squared: bool) -> Tensor:
    """The contrastive loss of the pairs (rows 2i and 2i+1); see :class:`ContrastiveLoss`."""
    squares, positive = _given(embeddings, labels)
    apart = squares > 0
    distances = torch.where(apart, torch.where(apart, squares, 1).sqrt(), squares)  # no infinite slope at 0
    hinge = (margin - distances).relu()
    terms = torch.where(positive, squares, hinge.square()) if squared else torch.where(positive, distances, hinge)
    value = terms.sum() / (2 * max(len(terms), 1)) + 0 * embeddings.sum(dtype=terms.dtype)
    return value.to(torch.promote_types(embeddings.dtype, torch.float32))


def _given(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance, and whether it is one class, of the pairs (2i, 2i+1): each (B // 2,)."""
    check_batch(embeddings, labels)
    even = len(embeddings) // 2 * 2
    x = embeddings.to(wide_dtype(embeddings.device))
    return (x[0:even:2] - x[1:even:2]).square().sum(1), labels[0:even:2] == labels[1:even:2]


def _terms(pairs: PairBlocks, with_gradient: bool, margin: float, average: Average, squared: bool) -> Terms:
    """Value and gradient of the form on all pairs, in one sweep; to average over the active ones takes one more.

    What is added up is Σ_N hinge + r Σ_P D, of both squared or not, to be divided by |N| at the end: r = |N| / |P|.
    """
    positives, negatives = (count.clamp_min(1) for count in pairs.counts())
    counted = negatives if average == "all" else _active(pairs, margin).clamp_min(1)
    ratio = counted.to(pairs.rows.dtype) / positives
    factor = ratio.sqrt() if squared else ratio
    total: Any = None
    laplacian = Laplacian(pairs)
    for block in pairs.blocks(keep=average == "active"):
        terms = torch.where(block.positive, block.distances * factor, (margin - block.distances).relu_())
        total = added(total, terms.square().sum() if squared else terms.sum())
        if with_gradient:  # minus the derivatives by a distance, divided by it
            if squared:  # not masked_fill_: on CUDA it would read the ratio, and wait
                weights = torch.where(block.positive, -ratio, block.over_distances_(terms))
            else:
                weights = block.over_distances_(torch.where(block.positive, -ratio, terms.sign_()))
            laplacian.add_(block, weights, mutual=True, scale=-(2 if squared else 1) * pairs.ends)
    twice = 2 * counted
    value = total / twice
    if with_gradient:
        return Terms(value, laplacian.gradient().div_(twice), None)
    return Terms(value, None, _active(pairs, margin) / negatives)


def _active(pairs: PairBlocks, margin: float) -> Tensor:
    """The number of negative pairs closer than the margin, each of the batch counted from both its ends."""
    close = (torch.count_nonzero((block.distances < margin) > block.positive) for block in pairs.blocks(keep=True))
    return reduce(added, close)
