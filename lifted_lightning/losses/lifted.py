"""Lifted structure loss: each positive pair against all negatives of both its ends."""

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import (
    WHOLE_ROWS,
    Block,
    PairBlocks,
    Terms,
    active_share,
    over_distance_,
    pair_loss,
)


class LiftedStructureLoss(nn.Module):
    r"""Lifted structure loss (Oh Song, Xiang, Jegelka, Savarese, CVPR 2016).

    With D the Euclidean distance, P the unordered positive pairs and N the negative pairs of the batch,

    .. math::
        J_{ij} = \log\Big(\sum_{(i,k) \in N} e^{\alpha - D_{ik}} + \sum_{(j,l) \in N} e^{\alpha - D_{jl}}\Big)
                 + D_{ij}, \qquad J = \frac{1}{2|P|} \sum_{(i,j) \in P} \max(0, J_{ij})^2

    (eq. 4, the one the paper trains). ``smooth=False`` takes the largest :math:`\alpha - D` in place of the
    logarithm (eq. 3): the hardest negative at each end. Eq. 4 is never below eq. 3. Every positive pair
    counts in :math:`|P|`, also one whose hinge is 0.

    At the edges: no positive pair, no negative pair, or an empty batch give 0 with a zero gradient. Where a
    distance is 0 its derivative is 0; where eq. 3 has a tie between the two ends, each gets half.

    Args:
        margin: the paper's α; its value is 1, for embeddings that are not normalised.
        smooth: eq. 4 (True) or eq. 3 (False).
    """

    def __init__(self, margin: float = 1.0, smooth: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.smooth = smooth

    def extra_repr(self) -> str:
        return f"margin={self.margin}, smooth={self.smooth}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        return lifted_structure_loss(embeddings, labels, self.margin, self.smooth)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the positive pairs whose hinge is above 0."""
        share = active_share(embeddings, labels, lambda p, g: _terms(p, g, self.margin, self.smooth))
        return {"active_share": share}


def lifted_structure_loss(
    embeddings: Tensor, labels: Tensor, margin: float = 1.0, smooth: bool = True
) -> Tensor:
    """The lifted structure loss as a function; see :class:`LiftedStructureLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin, smooth))


def _terms(pairs: PairBlocks, with_gradient: bool, margin: float, smooth: bool) -> Terms:
    """Value and gradient in three sweeps: the lift of each row, the positive pairs, the negatives' share.

    In the smooth form a row's lift is l_i = log Σ_k e^{α − D_ik} over its negatives, and
    J_ij = log(e^{l_i} + e^{l_j}) + D_ij; in eq. 3 it is the maximum, and so is the join of the two ends.
    """
    kept: list[Tensor] = []  # the distances of the first sweep, for the third
    lifts, nearest = [], []
    for block in pairs.blocks:
        far = pairs.far(block)
        if smooth:
            lifts.append(_log_sum(far, margin))
            if with_gradient and len(pairs.x) <= WHOLE_ROWS:
                kept.append(far)
        else:
            closest = far.min(1)
            lifts.append(margin - closest.values)
            nearest.append(closest.indices)
    lift = torch.cat(lifts) if lifts else pairs.positives

    total, active = pairs.x.new_zeros(()), pairs.x.new_zeros(())
    gradients, pushes = [], []
    for block in pairs.blocks:
        hinge, share = _positive_hinges(pairs, block, lift, smooth)
        total += hinge.square().sum()
        active += (hinge > 0).sum()
        if with_gradient:
            pushes.append((hinge * share).sum(1))
            weights = over_distance_(hinge, pairs.distances(block.rows, block.near))
            gradients.append(pairs.pull(weights, block.rows, block.near))
    count = pairs.positives.sum().clamp_min(1)  # of ordered pairs, 2|P|; each hinge was met twice
    gradient = None
    if with_gradient:
        gradient = torch.cat(gradients) if gradients else torch.zeros_like(pairs.x)
        if pushes and smooth:
            _push_all(pairs, gradient, torch.cat(pushes), margin - lift, kept)
        elif pushes:
            _push_nearest(pairs, gradient, torch.cat(pushes), margin - lift, torch.cat(nearest))
        gradient *= 2 / count
    return Terms(total / (2 * count), gradient, active / count)


def _log_sum(far: Tensor, margin: float) -> Tensor:
    """log Σ_k e^{margin − D_ik} of each row, (rows,); minus infinity without a negative."""
    nearest = far.amin(1, keepdim=True)
    nearest = torch.where(nearest == torch.inf, 0, nearest)
    return (nearest - far).exp_().sum(1).log() + (margin - nearest[:, 0])


def _positive_hinges(pairs: PairBlocks, block: Block, lift: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """max(0, J_ij) of the positive pairs, 0 elsewhere, and the derivative of J_ij by l_i: (rows, near)."""
    here, there = lift[block.rows, None], lift[block.near]
    if smooth:
        joined, share = torch.logaddexp(here, there), torch.sigmoid(here - there)
    else:
        joined, share = torch.maximum(here, there), ((here > there) + 0.5 * (here == there)).to(lift.dtype)
    hinge = torch.where(pairs.positive(block), joined + pairs.distances(block.rows, block.near), 0).relu_()
    return hinge, torch.where(hinge > 0, share, 0)  # two empty lifts give a share of NaN, but no hinge


def _push_all(pairs: PairBlocks, gradient: Tensor, push: Tensor, softmin: Tensor, kept: list[Tensor]) -> None:
    """Add the gradient by way of the lifts, smooth form: dl_i/dD_ik = −e^{α − l_i − D_ik}.

    The pair (i, k) is met from both sides: its weight is
    −(push_i e^{α − l_i − D_ik} + push_k e^{α − l_k − D_ik}) / D_ik.
    The factors go into the exponents, where a row that pushes nothing is minus infinity.
    """
    offset = torch.where(push > 0, softmin + push.log(), -torch.inf)
    for number, block in enumerate(pairs.blocks):
        far = kept[number] if kept else pairs.far(block)
        weights = (offset[block.rows, None] - far).exp_()
        weights += (offset - far).exp_()
        gradient[block.rows] -= pairs.pull(over_distance_(weights, far), block.rows)


def _push_nearest(pairs: PairBlocks, gradient: Tensor, push: Tensor, nearest: Tensor, index: Tensor) -> None:
    """Add the gradient by way of the lifts, eq. 3: each row's push goes to its nearest negative alone."""
    weights = torch.where(push > 0, over_distance_(push, nearest), 0)
    pushed = weights[:, None] * (pairs.x - pairs.x[index])
    gradient.sub_(pushed).index_add_(0, index, pushed)
