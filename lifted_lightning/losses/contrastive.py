"""Contrastive loss: positives together, negatives at least a margin apart."""

from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from lifted_lightning.errors import UserError
from lifted_lightning.losses.pairs import (
    Average,
    Laplacian,
    PairBlocks,
    PairLoss,
    References,
    Terms,
    added,
    check_batch,
    checked_margin,
    narrow_dtype,
    take,
    wide_dtype,
)


class ContrastiveLoss(PairLoss):
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
        if self.pairs == "all":
            return super().forward(embeddings, labels, references)
        if references is not None:
            raise UserError("pairs=consecutive: given pairs are none with a memory; leave out pairs")
        distances, positive = _given(embeddings, labels)
        terms = torch.where(positive, distances, (self.margin - distances).relu())
        value = (terms.square() if self.squared else terms).sum() / (2 * max(len(terms), 1))
        # An embedding that is not finite makes the value so, although no term may have seen it.
        return torch.add(value, embeddings.detach().sum(dtype=value.dtype), alpha=0).to(narrow_dtype(embeddings))

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the negative pairs that are closer than the margin."""
        if self.pairs == "all":
            return super().diagnostics(embeddings, labels)
        distances, positive = _given(embeddings.detach(), labels)
        share = ((distances < self.margin) & ~positive).sum() / (~positive).sum().clamp_min(1)
        return {"active_share": share.float()}

    def _terms(self, pairs: PairBlocks, with_gradient: bool) -> Terms:
        """Value and gradient of the form on all pairs, in one sweep; to average over the active ones takes one more.

        What is added up is Σ_N hinge + r Σ_P D, of both squared or not, to be divided by |N| at the end: r = |N| / |P|.
        """
        positives, negatives = (count.clamp_min(1) for count in pairs.counts())
        counted = negatives if self.average == "all" else self._active(pairs).clamp_min(1)
        ratio = counted.to(pairs.rows.dtype) / positives
        factor = ratio.sqrt() if self.squared else ratio
        total: Any = None
        laplacian = Laplacian(pairs)
        for block in pairs.blocks(keep=self.average == "active"):
            terms = torch.where(block.positive, block.distances * factor, (self.margin - block.distances).relu_())
            total = added(total, terms.square().sum() if self.squared else terms.sum())
            if with_gradient:  # minus the derivatives by a distance, divided by it
                if self.squared:  # not masked_fill_: on CUDA it would read the ratio, and wait
                    weights = torch.where(block.positive, -ratio, block.over_distances_(terms))
                else:
                    weights = block.over_distances_(torch.where(block.positive, -ratio, terms.sign_()))
                laplacian.add_(block, weights, mutual=True, scale=-(2 if self.squared else 1) * pairs.ends)
        twice = 2 * counted
        if with_gradient:
            return Terms(total / twice, laplacian.gradient().div_(twice), None)
        return Terms(total / twice, None, self._active(pairs) / negatives)

    def _active(self, pairs: PairBlocks) -> Tensor:
        """The number of negative pairs closer than the margin, each of the batch counted from both its ends."""
        blocks = pairs.blocks(keep=True)
        close = (torch.count_nonzero((block.distances < self.margin) > block.positive) for block in blocks)
        return reduce(added, close)


def _given(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Distance, and whether it is one class, of the pairs (2i, 2i+1): each (B // 2,)."""
    check_batch(embeddings, labels)
    count = len(labels) // 2
    rows, names = (take(values, slice(0, 2 * count)).unflatten(0, (count, 2)) for values in (embeddings, labels))
    first, second = rows.to(wide_dtype(rows.device)).unbind(1)
    return torch.linalg.vector_norm(first - second, dim=1), names[:, 0] == names[:, 1]
