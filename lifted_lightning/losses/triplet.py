"""Triplet loss: each positive nearer to its anchor than the negatives are, by a margin."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lifted_lightning.losses.pairs import Block, PairBlocks, Terms, active_share, over_distance_, pair_loss

Mining = Literal["all", "semihard", "hard"]
Average = Literal["active", "all"]

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
    that are not normalised let all points collapse into one before a margin of 1 is met.

    At the edges: a batch without a triplet (no positives, no negatives, one row, none) gives 0 with a zero
    gradient. The derivative of a distance that is 0 is 0; of several equal extremes one is taken.

    Args:
        margin: α, in the unit of the distance, or of its square.
        squared: squared distances in place of distances.
        mining: which triplets are kept.
        average: over the active triplets or all the kept.
    """

    def __init__(
        self, margin: float = 0.2, squared: bool = False, mining: Mining = "all", average: Average = "active"
    ) -> None:
        super().__init__()
        if mining not in _MINERS:
            raise ValueError(f"mining must be 'all', 'semihard' or 'hard', not {mining!r}")
        if average not in ("active", "all"):
            raise ValueError(f"average must be 'active' or 'all', not {average!r}")
        self.margin = margin
        self.squared = squared
        self.mining: Mining = mining
        self.average: Average = average

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, squared={self.squared}, mining={self.mining!r}, average={self.average!r}"
        )

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
    margin: float = 0.2,
    squared: bool = False,
    mining: Mining = "all",
    average: Average = "active",
) -> Tensor:
    """The triplet loss as a function; see :class:`TripletLoss`."""
    return pair_loss(embeddings, labels, lambda p, g: _terms(p, g, margin, squared, mining, average))


class _Mined(NamedTuple):
    """What one block of anchors adds."""

    total: Tensor  # the sum of the hinges, scalar
    kept: Tensor  # the number of triplets, scalar
    active: Tensor  # those above 0, scalar
    weights: Tensor  # the derivative of `total` by the distances (squared distances), (rows, B)


def _terms(
    pairs: PairBlocks, with_gradient: bool, margin: float, squared: bool, mining: Mining, average: Average
) -> Terms:
    """Value and gradient in one sweep over blocks of anchors."""
    total, kept, active = (pairs.x.new_zeros(()) for _ in range(3))
    gradient = torch.zeros_like(pairs.x) if with_gradient else None
    for block in pairs.blocks:
        distances = pairs.squared(block.rows) if squared else pairs.distances(block.rows)
        mined = _MINERS[mining](pairs, block, distances, margin)
        total += mined.total
        kept += mined.kept
        active += mined.active
        if gradient is not None:
            weights = mined.weights * 2 if squared else over_distance_(mined.weights, distances)
            gradient[block.rows] += pairs.pull(weights, block.rows)
            gradient += pairs.pull_transposed(weights, block.rows)
    count = 2 * (active if average == "active" else kept).clamp_min(1)
    return Terms(
        total / count, gradient if gradient is None else gradient / count, active / kept.clamp_min(1)
    )


def _sorted_positives(pairs: PairBlocks, block: Block, distances: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the positives in ascending order, padded with infinity, and their columns; (rows, K)."""
    positives = torch.where(pairs.positive(block), distances[:, block.near], torch.inf)
    values, index = positives.sort(1)
    width = min(pairs.widest, values.shape[1])
    return values[:, :width].contiguous(), index[:, :width] + block.near.start


def _mine_all(pairs: PairBlocks, block: Block, distances: Tensor, margin: float) -> _Mined:
    """Every triplet, without a third dimension.

    The positives of an anchor put thresholds D_ap + α on the line. A negative is active with every threshold
    above it: a binary search counts those, and the counts, added up from the left, say of each threshold how
    many negatives lie below it.
    """
    values, index = _sorted_positives(pairs, block, distances)
    real = values != torch.inf
    thresholds = values + margin
    below = torch.searchsorted(thresholds, distances, right=True)
    below[:, block.near].masked_fill_(
        pairs.same(block), values.shape[1]
    )  # an anchor's own class is in no triplet
    histogram = distances.new_zeros(len(values), values.shape[1] + 1)
    histogram.scatter_add_(1, below, histogram.new_ones(()).expand(below.shape))
    closer = torch.where(real, histogram.cumsum(1)[:, :-1], 0)
    farther = (pairs.positives[block.rows, None] - below).clamp_min_(0)
    total = torch.where(real, closer * thresholds, 0).sum() - (farther * distances).sum()
    kept = (pairs.positives[block.rows] * pairs.negatives[block.rows]).sum()
    return _Mined(total, kept, closer.sum(), farther.neg_().scatter_add_(1, index, closer))


def _mine_semihard(pairs: PairBlocks, block: Block, distances: Tensor, margin: float) -> _Mined:
    """For each anchor and positive the nearest negative beyond the positive and within the margin."""
    values, index = _sorted_positives(pairs, block, distances)
    far = distances.clone()
    far[:, block.near].masked_fill_(pairs.same(block), torch.inf)
    far, columns = far.sort(1)
    place = torch.searchsorted(far, values * (1 + TIE), right=True).clamp_max_(far.shape[1] - 1)
    nearest = far.gather(1, place)
    hinge = torch.where((values < nearest) & (nearest < values + margin), values - nearest + margin, 0)
    active = (hinge > 0).to(distances.dtype)
    weights = torch.zeros_like(distances).scatter_add_(1, columns.gather(1, place), -active)
    return _Mined(hinge.sum(), active.sum(), active.sum(), weights.scatter_add_(1, index, active))


def _mine_hard(pairs: PairBlocks, block: Block, distances: Tensor, margin: float) -> _Mined:
    """For each anchor the farthest positive and the nearest negative."""
    farthest = torch.where(pairs.positive(block), distances[:, block.near], -1).max(1)
    far = distances.clone()
    far[:, block.near].masked_fill_(pairs.same(block), torch.inf)
    nearest = far.min(1)
    valid = (farthest.values >= 0) & (nearest.values < torch.inf)
    hinge = torch.where(valid, farthest.values - nearest.values + margin, 0).relu_()
    active = (hinge > 0).to(distances.dtype)[:, None]
    weights = torch.zeros_like(distances).scatter_add_(1, nearest.indices[:, None], -active)
    weights.scatter_add_(1, farthest.indices[:, None] + block.near.start, active)
    return _Mined(hinge.sum(), valid.sum(), active.sum(), weights)


_MINERS = {"all": _mine_all, "semihard": _mine_semihard, "hard": _mine_hard}
