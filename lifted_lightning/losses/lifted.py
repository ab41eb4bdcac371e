"""Lifted structure loss: each positive pair against all negatives of both its ends."""

import math

import torch
from torch import Tensor, nn

from lifted_lightning.errors import UserError
from lifted_lightning.losses.pairs import (
    WHOLE_ROWS,
    Laplacian,
    PairBlocks,
    Terms,
    active_share,
    check_batch,
    checked_margin,
    over_distance_,
    pair_loss,
    wide_dtype,
)


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

    At the edges: no positive pair, no negative pair, or an empty batch give 0 with a zero gradient. Where a
    distance is 0 its derivative is 0; where eq. 3 has a tie between the two ends, each gets half.

    Time O(B²). Memory O(B²) up to B = 4,096; above, row blocks are computed twice in place of being kept, and
    it is O(B (R + K)) for blocks of R rows (64 or more) and classes of up to K.

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

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        return lifted_structure_loss(embeddings, labels, self.margin, self.smooth)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the positive pairs whose hinge is above 0."""
        check_batch(embeddings, labels)
        scaled, margin, smooth = _at_temperature_1(embeddings, self.margin, self.smooth)
        return {"active_share": active_share(scaled, labels, lambda p, g: _terms(p, g, margin, smooth))}


def lifted_structure_loss(
    embeddings: Tensor, labels: Tensor, margin: float = 0.1, smooth: bool | float = 0.1
) -> Tensor:
    """The lifted structure loss as a function; see :class:`LiftedStructureLoss`."""
    check_batch(embeddings, labels)
    narrow = torch.promote_types(embeddings.dtype, torch.float32)
    scaled, scaled_margin, log_sum = _at_temperature_1(embeddings, margin, smooth)
    value = pair_loss(scaled, labels, lambda p, g: _terms(p, g, scaled_margin, log_sum))
    return value if scaled is embeddings else (value * float(smooth) ** 2).to(narrow)


def _at_temperature_1(embeddings: Tensor, margin: float, smooth: bool | float) -> tuple[Tensor, float, bool]:
    """Embeddings and margin in units of the temperature; whether there is one, or its limit 0 is meant (eq. 3)."""
    if smooth in (0, 1):
        return embeddings, margin, bool(smooth)
    wide = embeddings.to(wide_dtype(embeddings.device))  # a quotient in float32 would move what is far from 0
    return wide / float(smooth), margin / float(smooth), True


def _terms(pairs: PairBlocks, with_gradient: bool, margin: float, smooth: bool) -> Terms:
    """Value and gradient in three sweeps: the lift of each row, the positive pairs, the negative pairs.

    In the smooth form a row's lift is l_i = log Σ_k e^{α − D_ik} over its negatives, and
    J_ij = log(e^{l_i} + e^{l_j}) + D_ij; in eq. 3 it is the maximum, and so is the join of the two ends.
    """
    # Of each block: where the positive pairs are and their distances; the distances of the negative pairs,
    # for the third sweep, if they may be kept.
    positives: list[tuple[Tensor, Tensor]] = []
    kept: list[Tensor] = []
    if smooth:
        lift = margin + _log_sums(pairs, positives, kept if with_gradient else None)
    else:
        nearest, index = _nearest(pairs, positives)
        lift = margin - nearest

    count = pairs.positives.sum().clamp_min(2) / 2
    total, active, push = pairs.x.new_zeros(()), pairs.x.new_zeros(()), torch.zeros_like(lift)
    pulls = []  # of each block: the positive pairs' weights
    for block, (positive, distances) in zip(pairs.blocks, positives, strict=True):
        here, there = lift[block.rows, None], lift[block.beside]
        joined, share = _join(here, there, smooth)
        hinge = torch.where(positive, joined + distances, 0).relu_()
        part = hinge * torch.where(hinge > 0, share, 0)  # two empty lifts give a share of NaN, but no hinge
        total += hinge.square().sum()
        active += (hinge > 0).sum()
        push[block.rows] += part.sum(1)
        push[block.beside] += (hinge - part).sum(0)
        pulls.append(over_distance_(hinge, distances))
    value, share = total / (2 * count), active / count
    if not with_gradient:
        return Terms(value, None, share)
    laplacian = Laplacian(pairs.x)
    if smooth:
        _add_all(pairs, laplacian, pulls, push, margin - lift, kept)
    else:
        for block, weights in zip(pairs.blocks, pulls, strict=True):
            laplacian.add_(weights, block.rows, block.beside)
        laplacian.add_edges_(-torch.where(push > 0, over_distance_(push, nearest), 0), index)
    return Terms(value, laplacian.gradient().div_(count), share)


def _log_sums(pairs: PairBlocks, positives: list[tuple[Tensor, Tensor]], kept: list[Tensor] | None) -> Tensor:
    """log Σ_k e^{−D_ik} over each row's negatives, (B,); minus infinity without one. Fills the lists."""
    sums = torch.full_like(pairs.positives, -torch.inf)
    for block in pairs.blocks:
        positive, near, far = pairs.split(block)
        positives.append((positive, near))
        sums[block.rows] = torch.logaddexp(sums[block.rows], _log_sum(far, 1))
        sums[block.columns] = torch.logaddexp(sums[block.columns], _log_sum(far, 0))
        if kept is not None and len(pairs.x) <= WHOLE_ROWS:
            kept.append(far)
    return sums


def _log_sum(far: Tensor, dim: int) -> Tensor:
    """log Σ e^{−D} along one side, in one temporary."""
    nearest = far.amin(dim, keepdim=True)
    nearest = torch.where(nearest == torch.inf, 0, nearest)
    return (nearest - far).exp_().sum(dim).log() - nearest.squeeze(dim)


def _nearest(pairs: PairBlocks, positives: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Distance (infinity without one) and row of each row's nearest negative, each (B,). Fills the list."""
    nearest = torch.full_like(pairs.positives, torch.inf)
    index = torch.zeros_like(nearest, dtype=torch.int64)
    for block in pairs.blocks:
        positive, near, far = pairs.split(block)
        positives.append((positive, near))
        for here, there, dim in ((block.rows, block.columns, 1), (block.columns, block.rows, 0)):
            distance, place = far.min(dim)
            index[here] = torch.where(distance < nearest[here], place + there.start, index[here])
            nearest[here] = torch.minimum(nearest[here], distance)
    return nearest, index


def _join(here: Tensor, there: Tensor, smooth: bool) -> tuple[Tensor, Tensor]:
    """What two ends' lifts make together, and its derivative by the first: each (rows, beside)."""
    if smooth:
        return torch.logaddexp(here, there), torch.sigmoid(here - there)
    return torch.maximum(here, there), ((here > there) + 0.5 * (here == there)).to(here.dtype)


def _add_all(
    pairs: PairBlocks,
    laplacian: Laplacian,
    pulls: list[Tensor],
    push: Tensor,
    softmin: Tensor,
    kept: list[Tensor],
) -> None:
    """Add the smooth form's gradient: the positive pairs' pulls, and by dl_i/dD_ik = −e^{α − l_i − D_ik}.

    The negative pair (i, k) has the weight −(push_i e^{α − l_i − D_ik} + push_k e^{α − l_k − D_ik}) / D_ik.
    The factors go into the exponents, where a row that pushes nothing has minus infinity.
    """
    offset = torch.where(push > 0, softmin + push.log(), -torch.inf)
    for number, block in enumerate(pairs.blocks):
        far = kept[number] if kept else pairs.split(block)[2]
        weights = (offset[block.rows, None] - far).exp_()
        weights += (offset[block.columns] - far).exp_()
        over_distance_(weights, far)[:, : pulls[number].shape[1]] -= pulls[number]
        laplacian.add_(weights, block.rows, block.columns, -1)
