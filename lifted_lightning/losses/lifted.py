"""Lifted structure loss: each positive pair against all negatives of both its ends."""

import math
from typing import Any, cast

import torch
from torch import Tensor

from lifted_lightning.errors import UserError
from lifted_lightning.losses.pairs import (
    Block,
    Laplacian,
    PairBlocks,
    PairLoss,
    Terms,
    added,
    checked_margin,
    put,
    take,
)

FAR = 1e30  # how far no negative is: finite, so that two rows without one can be joined and compared


class LiftedStructureLoss(PairLoss):
    r"""Lifted structure loss (Oh Song, Xiang, Jegelka, Savarese, CVPR 2016).

    With D the Euclidean distance, P the unordered positive pairs and N the negative pairs of the batch,

    .. math::
        J_{ij} = \tau \log\Big(\sum_{(i,k) \in N} e^{(\alpha - D_{ik}) / \tau}
                 + \sum_{(j,l) \in N} e^{(\alpha - D_{jl}) / \tau}\Big)
                 + D_{ij}, \qquad J = \frac{1}{2|P|} \sum_{(i,j) \in P} \max(0, J_{ij})^2 .

    The paper trains :math:`\tau = 1` (its eq. 4) on embeddings of any length. The temperature τ, ``smooth``, says at
    which scale of distances a negative is felt as near: at unit length no two are further apart than 2, so that 1
    would weigh all negatives nearly alike, and the default is smaller. It is the paper's loss, times τ², of
    embeddings 1/τ times as long, with a margin of α/τ. As τ goes to 0 the logarithm becomes the largest
    :math:`\alpha - D`: ``smooth=0``, or false, is that limit (eq. 3), the hardest negative at each end. No τ gives
    less than it. Every positive pair counts in :math:`|P|`, also one whose hinge is 0.

    Against references P and N are the pairs of a row i of the batch and a reference j: the negatives k of the row are
    references, and those of the reference, l, rows of the batch. Time and memory are O(B N) for N references.

    At the edges: no positive pair, no negative pair, or an empty batch give 0 with a zero gradient. Where a
    distance is 0 its derivative is 0; where eq. 3 has a tie between the two ends, each gets half.

    Time O(B²). Memory O(B²) up to B = 4,096; above, row blocks are computed again in place of being kept, and it is
    O(B R) for blocks of R rows (64 or more).

    Args:
        margin: α, in the unit of the distances; the paper's is 1, for embeddings that are not normalised.
        smooth: τ, in the unit of the distances; true is 1, the paper's eq. 4, and false is 0, its eq. 3. The default
            was chosen in validation among 1 and 1/7 to 1/32 (``experiments/benchmarks/RESULTS.md``).

    Raises:
        UserError: for a margin or temperature that is negative or not finite.
    """

    def __init__(self, margin: float = 0.1, smooth: bool | float = 0.1) -> None:
        super().__init__()
        if not 0 <= smooth < math.inf:
            raise UserError(f"smooth={smooth}: give a finite temperature of at least 0, in the unit of the distances")
        self.margin = checked_margin(margin)
        self.smooth = smooth

    def extra_repr(self) -> str:
        return f"margin={self.margin}, smooth={self.smooth}"

    def _terms(self, pairs: PairBlocks, with_gradient: bool) -> Terms:
        """Value and gradient in two sweeps: the lift of each row; the hinge of each positive pair and the gradient.

        A pair is met from both its ends. With J, D and α in units of the temperature, a row's lift is
        l_i = log Σ_k e^{α − D_ik} over its negatives, and J_ij = log(e^{l_i} + e^{l_j}) + D_ij; in eq. 3 the lift is
        the maximum, and so is the join of the two ends. By dl_i/dD_ik = −s_ik the negative pair (i, k) has the
        derivative −s_ik Σ_j max(0, J_ij) dJ_ij/dl_i, and as much from its other end. Against references a pair is met
        only from its row, so that the lift of a column, and what is felt of it, are added up along the column.
        """
        if not self.smooth:
            pairs.widen()
        if pairs.apart:
            pairs.join()
        shares: list[Tensor] = []  # of each block, if they may be kept
        lift = total = count = active = cast(Any, None)
        for block in pairs.blocks(keep=True):
            part, share = self._lift(reach := self._reach(pairs, block), 1)
            lift = put(lift, part, block.rows, len(pairs.rows))
            shares += [share] if pairs.keeps else []
        other, other_share = self._lift(reach, 0) if pairs.apart else (lift.T, None)
        laplacian = Laplacian(pairs)
        for number, block in enumerate(pairs.blocks(keep=True)):
            hinge, felt = self._hinge(block, take(lift, block.rows), other)
            total = added(total, hinge.square().sum())
            count = added(count, torch.count_nonzero(block.positive))
            if with_gradient:
                push = felt.mul_(hinge).sum(1, keepdim=True)
                share = shares[number] if shares else self._lift(self._reach(pairs, block), 1)[1]
                weights = torch.addcmul(hinge, share, push, value=-pairs.ends)
                if other_share is not None:
                    weights.addcmul_(other_share, hinge.sub_(felt).sum(0), value=-pairs.ends)
                laplacian.add_(block, block.over_distances_(weights), mutual=False, scale=self._unit)
            else:
                active = added(active, torch.count_nonzero(hinge))
        count = count.clamp_min(1)
        value = total * (self._unit**2 / 2) / count
        if with_gradient:
            return Terms(value, laplacian.gradient().div_(count), None)
        return Terms(value, None, active / count)

    @property
    def _unit(self) -> float:
        """Of the distances in a hinge."""
        return float(self.smooth or 1)

    def _reach(self, pairs: PairBlocks, block: Block) -> Tensor:
        """α − D of a block's negative pairs, very low elsewhere: (R, N)."""
        reach = torch.rsub(block.distances, self.margin / self._unit, alpha=1 / self._unit)
        reach.masked_fill_(block.positive, -FAR)
        return reach.clamp_min_(-FAR) if pairs.apart else reach  # where a row or column has but a row's own copy

    def _lift(self, reach: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        """The lifts of rows (R, 1), or of columns (1, N), and their derivatives by α − D of each pair: (R, N)."""
        if not self.smooth:
            lift, nearest = reach.max(dim, keepdim=True)
            return lift, torch.zeros_like(reach).scatter_(dim, nearest, 1)
        share = reach.softmax(dim)  # of which the largest is 1 / Σ_k e^{reach_k − the largest reach}
        return reach.amax(dim, keepdim=True) - share.amax(dim, keepdim=True).log_(), share

    def _hinge(self, block: Block, own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """max(0, J) of the positive pairs, 0 elsewhere, and the derivative of the join by the row's lift: (R, N).

        Of the lifts of the block's rows (R, 1), and of all columns (1, N).
        """
        felt = own - other
        if self.smooth:  # log(e^a + e^b) = a − log sigmoid(a − b): log1p, which logaddexp takes, is ten times slower
            felt.sigmoid_().clamp_min_(1 / FAR)
            own = own - felt.log()
        else:
            felt = torch.heaviside(felt, felt.new_full((), 0.5))
        join = torch.maximum(own, other).add_(block.distances, alpha=1 / self._unit)
        return torch.where(block.positive, join, 0).relu_(), felt
