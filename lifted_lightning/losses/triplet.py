"""Triplet loss: each positive nearer to its anchor than the negatives are, by a margin."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lifted_lightning.losses.pairs import (
    Average,
    Block,
    Laplacian,
    PairBlocks,
    Terms,
    active_share,
    checked_margin,
    over_distance_,
    pair_loss,
)

Mining = Literal["all", "semihard", "hard"]

TIE = 1e-9  # copies of a row are at one distance but for rounding: a relative difference below this is a tie


class TripletLoss(nn.Module):
    r"""Triplet loss (Weinberger, Saul, JMLR 2009; Schroff et al., CVPR 2015) over the triplets of a batch.

    .. math:: J = \frac{1}{2|T|} \sum_{(a,p,n) \in T} \max(0, D_{ap} - D_{an} + \alpha)

    ``mining`` says which triplets are kept:

    - ``"all"``: every anchor, positive and negative; exact, in O(B² log K) time for classes of K images;
    - ``"semihard"``: for every anchor and positive the nearest negative with
      :math:`D_{ap} < D_{an} < D_{ap} + \alpha`; a pair without one contributes nothing and is not counted;
    - ``"hard"``: for every anchor its farthest positive and nearest negative (batch hard; Hermans, Beyer,
      Leibe, arXiv 1703.07737).

    ``average`` says what T counts: ``"all"`` kept triplets, or those whose hinge is above 0 (``"active"``).
    The paper's form (Oh Song et al., CVPR 2016, section 3) is ``squared=True, average="all", margin=1``; its
    factor ½ is kept in every form. The defaults differ because they train: squared distances of embeddings
    that are not normalised let all points collapse into one before a margin of 1 is met. The default margin is for
    embeddings of unit length, chosen in validation.

    At the edges: a batch without a triplet (no positives, no negatives, one row, none) gives 0 with a zero
    gradient. The derivative of a distance that is 0 is 0; of several equal extremes one is taken.

    Args:
        margin: α, in the unit of the distance, or of its square.
        squared: squared distances in place of distances.
        mining: which triplets are kept.
        average: over the active triplets or all the kept.

    Raises:
        UserError: for a margin that is negative or not finite.
        ValueError: for another word.
    """

    def __init__(
        self, margin: float = 0.1, squared: bool = False, mining: Mining = "all", average: Average = "active"
    ) -> None:
        super().__init__()
        if mining not in ("all", "semihard", "hard"):
            raise ValueError(f"mining must be 'all', 'semihard' or 'hard', not {mining!r}")
        if average not in ("active", "all"):
            raise ValueError(f"average must be 'active' or 'all', not {average!r}")
        self.margin = checked_margin(margin)
        self.squared = squared
        self.mining: Mining = mining
        self.average: Average = average

    def extra_repr(self) -> str:
        return f"margin={self.margin}, squared={self.squared}, mining={self.mining!r}, average={self.average!r}"

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, for embeddings (B, D) float and labels (B,) integer."""
        return triplet_loss(embeddings, labels, self.margin, self.squared, self.mining, self.average)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the kept triplets whose hinge is above 0."""
        options = self.margin, self.squared, self.mining, self.average
        return {"active_share": active_share(embeddings, labels, lambda p, g: _terms(p, g, *options))}


def triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    margin: float = 0.1,
    squared: bool = False,
    mining: Mining = "all",
    average: Average = "active",
) -> Tensor:
    """The triplet loss as a function; see :class:`TripletLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin, squared, mining, average))


class _Triplets(NamedTuple):
    """Mined triplets of some anchors, k to an anchor; `near` and `far` are columns of the batch."""

    positive: Tensor  # distances (rows, k)
    near: Tensor  # the positives' columns (rows, k)
    negative: Tensor  # distances (rows, k)
    far: Tensor  # the negatives' columns (rows, k)
    valid: Tensor  # bool (rows, k)


def _terms(
    pairs: PairBlocks, with_gradient: bool, margin: float, squared: bool, mining: Mining, average: Average
) -> Terms:
    """Value and gradient for any choice of triplets."""
    laplacian = Laplacian(pairs.x) if with_gradient else None
    if mining == "all":
        total, kept, active = _sum_all(pairs, laplacian, margin, squared)
    else:
        total, kept, active = _sum_mined(pairs, laplacian, margin, squared, mining)
    count = 2 * (active if average == "active" else kept).clamp_min(1)
    gradient = laplacian.gradient().div_(count) if laplacian else None
    return Terms(total / count, gradient, active / kept.clamp_min(1))


def _sum_all(
    pairs: PairBlocks, laplacian: Laplacian | None, margin: float, squared: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of all triplets' hinges, the number of triplets, and of those above 0; no third dimension.

    The K positives of an anchor put thresholds D_ap + α on the line. A negative is active with every
    threshold above it: a binary search counts those, and the counts, added up from the left, say of each
    threshold how many negatives lie below it. A negative pair serves two anchors: it is searched for both.
    """
    total = pairs.x.new_zeros(())
    if not pairs.blocks:
        return total, total, total
    nearby = [_sorted_positives(pairs, b, pairs.distances(b.rows, b.near)) for b in pairs.blocks]
    values, index = (torch.cat(part) for part in zip(*nearby, strict=True))
    thresholds = _measure(values, squared) + margin
    histogram = values.new_zeros(len(values), values.shape[1] + 1)
    for block in pairs.blocks:
        _, _, distances = pairs.split(block)
        measure = _measure(distances, squared)
        above = _count_above(pairs, block.rows, thresholds, measure, histogram)
        above += _count_above(pairs, block.columns, thresholds, measure.T.contiguous(), histogram).T
        beside = measure[:, : block.beside.stop - block.beside.start]
        beside.masked_fill_(beside == torch.inf, 0)  # no threshold is above infinity, but 0 × ∞ is not 0
        total -= torch.dot(above.flatten(), measure.flatten())
        if laplacian:
            laplacian.add_(_weights_(above, distances, squared), block.rows, block.columns, -1)
    real = thresholds < torch.inf
    below = torch.where(real, histogram.cumsum(1)[:, :-1], 0)
    total += torch.where(real, below * thresholds, 0).sum()
    active = below.sum()
    if laplacian:
        weights = _weights_(below, values, squared)
        for block in pairs.blocks:
            width = block.near.stop - block.near.start
            spread = weights.new_zeros(block.rows.stop - block.rows.start, width)
            spread.scatter_add_(1, index[block.rows], weights[block.rows])
            laplacian.add_(spread, block.rows, block.near)
    return total, (pairs.positives * pairs.negatives).sum(), active


def _count_above(pairs: PairBlocks, anchors: slice, thresholds: Tensor, measure: Tensor, histogram: Tensor) -> Tensor:
    """How many of its anchor's thresholds lie above each distance, (anchors, n); adds to the histogram."""
    below = torch.searchsorted(thresholds[anchors], measure, right=True)
    histogram[anchors].scatter_add_(1, below, histogram.new_ones(()).expand(below.shape))
    return (pairs.positives[anchors, None] - below).clamp_min_(0)  # the padding counts as below infinity


def _sum_mined(
    pairs: PairBlocks, laplacian: Laplacian | None, margin: float, squared: bool, mining: Mining
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of the mined triplets' hinges, the number of those triplets, and of those above 0."""
    total, kept, active = (pairs.x.new_zeros(()) for _ in range(3))
    for block in pairs.blocks:
        distances = pairs.distances(block.rows)
        values, index = _sorted_positives(pairs, block, distances[:, block.near])
        distances[:, block.near].masked_fill_(pairs.same(block.rows, block.near), torch.inf)
        if mining == "semihard":
            mined = _semihard(values, index + block.near.start, distances, margin, squared)
        else:
            mined = _hard(values, index + block.near.start, distances, pairs.positives[block.rows])
        difference = _measure(mined.positive, squared) - _measure(mined.negative, squared)
        hinge = torch.where(mined.valid, difference + margin, 0).relu_()
        felt = (hinge > 0).to(hinge.dtype)
        total += hinge.sum()
        kept += mined.valid.sum()
        active += felt.sum()
        if laplacian:
            weights = torch.zeros_like(distances)
            weights.scatter_add_(1, mined.near, _weights_(felt.clone(), mined.positive, squared))
            weights.scatter_add_(1, mined.far, -_weights_(felt, mined.negative, squared))
            laplacian.add_(weights, block.rows, slice(0, len(pairs.x)))
    return total, kept, active


def _semihard(values: Tensor, index: Tensor, far: Tensor, margin: float, squared: bool) -> _Triplets:
    """For each anchor and positive the nearest negative beyond the positive, if it is within the margin."""
    far, columns = far.sort(1)
    place = torch.searchsorted(far, values * (1 + TIE), right=True).clamp_max_(far.shape[1] - 1)
    nearest = far.gather(1, place)
    within = _measure(nearest, squared) < _measure(values, squared) + margin
    return _Triplets(values, index, nearest, columns.gather(1, place), (values < nearest) & within)


def _hard(values: Tensor, index: Tensor, far: Tensor, positives: Tensor) -> _Triplets:
    """For each anchor the farthest positive and the nearest negative."""
    last = (positives.long() - 1).clamp_min(0)[:, None]
    nearest, column = far.min(1, keepdim=True)
    farthest = values.gather(1, last)
    valid = (farthest < torch.inf) & (nearest < torch.inf)
    return _Triplets(farthest, index.gather(1, last), nearest, column, valid)


def _sorted_positives(pairs: PairBlocks, block: Block, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the positives, ascending, padded with infinity, and their near columns: (rows, K)."""
    values, index = torch.where(pairs.positive(block), distances, torch.inf).sort(1)
    missing = pairs.widest - values.shape[1]  # cut if negative
    values, index = pad(values, (0, missing), value=torch.inf), pad(index, (0, missing))
    return values.contiguous(), index


def _measure(distances: Tensor, squared: bool) -> Tensor:
    """What a triplet compares."""
    return distances.square() if squared else distances


def _weights_(derivative: Tensor, distances: Tensor, squared: bool) -> Tensor:
    """From the derivative by the measure to weights of the Laplacian, in place."""
    return derivative.mul_(2) if squared else over_distance_(derivative, distances)
