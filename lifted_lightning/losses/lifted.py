"""Lifted structure loss: each positive pair against all negatives of both its ends."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError
from lifted_lightning.losses.pairs import (
    WHOLE_ROWS,
    Block,
    Laplacian,
    PairBlocks,
    References,
    Terms,
    active_share,
    added,
    checked_margin,
    pair_loss,
    put,
    take,
)

FAR = 1e30  # how far no negative is: finite, so that two rows without one can be joined and compared


class LiftedStructureLoss(nn.Module):
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

    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None = None) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        return lifted_structure_loss(embeddings, labels, self.margin, self.smooth, references)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the positive pairs whose hinge is above 0."""
        share = active_share(embeddings, labels, lambda p, g: _terms(p, g, self.margin, self.smooth))
        return {"active_share": share}


def lifted_structure_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 0.1,
    smooth: bool | float = 0.1,
    references: References | None = None,
) -> Tensor:
    """The lifted structure loss as a function; see :class:`LiftedStructureLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin, smooth), references)


def _terms(pairs: PairBlocks, with_gradient: bool, margin: float, smooth: bool | float) -> Terms:
    """Value and gradient in three sweeps: the lift of each row, the hinge of each positive pair, the gradient.

    Distances and margin are in units of the temperature. A row's lift is l_i = log Σ_k e^{α − D_ik} over its
    negatives, and J_ij = log(e^{l_i} + e^{l_j}) + D_ij; in eq. 3 the lift is the maximum, and so is the join of the
    two ends. A pair is met from both its ends; against references only from its row, so that the lift of a column, and
    what is felt of it, are added up along the column.
    """
    unit, size = float(smooth or 1), len(pairs.rows)
    pairs.unit = unit
    if not smooth:
        pairs.widen()
    if pairs.apart:
        pairs.join()
    # What the third sweep needs of each block again, if it may be kept.
    reaches: list[Tensor] = []
    hinges: list[Tensor] = []
    lift = total = count = active = push = felt = cast(Any, None)
    for block in pairs.blocks(keep=True):
        reach = _reach(block, margin / unit)
        lift = put(lift, reach.logsumexp(1) if smooth else reach.amax(1), block.rows, size)
        reaches += [reach] if size <= WHOLE_ROWS else []
    other = lift
    if pairs.apart:  # a row or column that has but a row's own copy has no lift at all
        other = (reach.logsumexp(0) if smooth else reach.amax(0)).clamp_min_(-FAR)
        lift.clamp_min_(-FAR)
    for block in pairs.blocks(keep=True):
        hinge, share = _hinge(block, lift, other, bool(smooth))
        total = added(total, hinge.square().sum())
        count = added(count, torch.count_nonzero(block.positive))
        if with_gradient:
            parts = hinge * share
            push = put(push, parts.sum(1), block.rows, size)
            felt = hinge.sub(parts).sum(0) if pairs.apart else push
            hinges += [hinge] if size <= WHOLE_ROWS else []
        else:
            active = added(active, torch.count_nonzero(hinge))
    count = count.clamp_min(1)
    value = total * (unit**2 / 2) / count
    if not with_gradient:
        return Terms(value, None, active / count)

    laplacian = Laplacian(pairs)
    offset, other_offset = push.log() - lift, felt.log() - other
    for number, block in enumerate(pairs.blocks(keep=True)):
        reach = reaches[number] if reaches else _reach(block, margin / unit)
        hinge = hinges[number] if hinges else _hinge(block, lift, other, bool(smooth))[0]
        if smooth:
            # By dl_i/dD_ik = −e^{α − l_i − D_ik} the negative pair (i, k) has the derivative
            # −push_i e^{α − l_i − D_ik} − push_k e^{α − l_k − D_ik}, whose factors go into the exponents.
            weights = (take(offset, block.rows)[:, None] + reach).exp_()
            weights.add_((other_offset + reach).exp_()).sub_(hinge)
        else:
            nearest = reach.argmax(1, keepdim=True)
            weights = hinge.mul_(-1 / pairs.ends).scatter_add_(1, nearest, take(push, block.rows)[:, None])
            if pairs.apart:
                weights.scatter_add_(0, reach.argmax(0, keepdim=True), felt[None])
        laplacian.add_(block, block.over_distances_(weights), mutual=bool(smooth), scale=-pairs.ends)
    return Terms(value, laplacian.gradient().div_(count), None)


def _reach(block: Block, margin: float) -> Tensor:
    """α − D of a block's negative pairs, very low elsewhere: (R, N)."""
    return (margin - block.distances).masked_fill_(block.positive, -FAR)


def _hinge(block: Block, lift: Tensor, other: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """max(0, J) of the positive pairs, 0 elsewhere, and the derivative of the join by the row's lift: each (R, N)."""
    own = take(lift, block.rows)[:, None]
    difference = own - other
    if smooth:
        join, share = torch.logaddexp(own, other), difference.sigmoid_()
    else:
        join, share = torch.maximum(own, other), difference.sign_().add_(1).div_(2)
    return torch.where(block.positive, join.add_(block.distances), 0).relu_(), share
