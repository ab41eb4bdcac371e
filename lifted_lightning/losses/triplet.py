"""Triplet loss: each positive nearer to its anchor than the negatives are, by a margin."""

from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from lifted_lightning.losses.pairs import Average, Block, Laplacian, PairBlocks, PairLoss, Terms, added, checked_margin

Mining = Literal["all", "semihard", "hard"]

TIE = 1e-9  # copies of a row are at one distance but for rounding: a relative difference below this is a tie


class TripletLoss(PairLoss):
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

    Against references the anchors a are the rows of the batch, p and n references.

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

    def _terms(self, pairs: PairBlocks, with_gradient: bool) -> Terms:
        """Value and gradient for any choice of triplets, in one sweep."""
        if self.squared or self.mining != "all":
            pairs.widen()
        total = kept = active = cast(Any, None)
        laplacian = Laplacian(pairs) if with_gradient else None
        for block in pairs.blocks():
            parts = (self._sum_all if self.mining == "all" else self._sum_mined)(pairs, block, laplacian)
            total, kept, active = (added(a, part) for a, part in zip((total, kept, active), parts, strict=True))
        twice = 2 * (active if self.average == "active" else kept).clamp_min(1)
        if laplacian:
            return Terms(total / twice, laplacian.gradient().div_(twice), None)
        return Terms(total / twice, None, active / kept.clamp_min(1))

    def _sum_all(self, pairs: PairBlocks, block: Block, laplacian: Laplacian | None) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of all triplets' hinges, the number of triplets, and of those above 0.

        No third dimension: the K positives of an anchor put thresholds D_ap + α on the line. A negative is active with
        every threshold above it: a binary search counts those, and the counts, added up from the left, say of each
        threshold how many negatives lie below it.
        """
        measure = self._measure(block.distances)
        count, values, columns = _sorted_positives(pairs, block, measure)
        missing, thresholds = values == torch.inf, values.add_(self.margin)
        far = measure.masked_fill(block.positive, torch.inf)
        place = torch.searchsorted(thresholds, far, right=True)
        histogram = place.new_zeros(len(place), thresholds.shape[1] + 1)
        histogram.scatter_add_(1, place, place.new_ones(()).expand(place.shape))
        below = histogram.cumsum(1)[:, :-1].masked_fill(missing, 0).to(measure.dtype)
        above = (count[:, None] - place).clamp_min_(0).to(measure.dtype)  # the padding counts as below infinity
        far.masked_fill_(above == 0, 0)  # 0 × ∞ is not 0
        total = (below * thresholds.masked_fill_(missing, 0)).sum(dtype=pairs.widest)
        total -= (above * far).sum(dtype=pairs.widest)
        triplets, active = (count * (len(pairs.columns) - 1 - count)).sum(), above.sum()
        if laplacian:  # from the derivative by the measure to that by the distance, divided by it
            weights = above.neg_().scatter_add_(1, columns, below)
            weights = weights if self.squared else block.over_distances_(weights)
            laplacian.add_(block, weights, mutual=False, scale=2 if self.squared else 1)
        return total, triplets, active

    def _sum_mined(self, pairs: PairBlocks, block: Block, laplacian: Laplacian | None) -> tuple[Tensor, Tensor, Tensor]:
        """The sum of the mined triplets' hinges, the number of those triplets, and of those above 0."""
        far = block.distances.masked_fill(block.positive, torch.inf)
        mined = self._semihard(pairs, block, far) if self.mining == "semihard" else _hard(block, far)
        difference = self._measure(mined.positive) - self._measure(mined.negative)
        hinge = torch.where(mined.valid, difference + self.margin, 0).relu_()
        felt = hinge.sign()
        if laplacian:
            columns, distances = torch.cat((mined.near, mined.far), 1), torch.cat((mined.positive, mined.negative), 1)
            weights = torch.cat((felt, -felt), 1)
            weights = 2 * weights if self.squared else weights.div_(distances).masked_fill_(distances == 0, 0)
            if self.mining == "hard":
                laplacian.add_edges_(block, weights, columns)
            else:
                weights = torch.zeros_like(far).scatter_add_(1, columns, weights)
                laplacian.add_(block, weights, mutual=False)
        return hinge.sum(), mined.valid.sum(), felt.sum()

    def _semihard(self, pairs: PairBlocks, block: Block, far: Tensor) -> "_Triplets":
        """For each anchor and positive the nearest negative beyond the positive, if it is within the margin."""
        _, values, near = _sorted_positives(pairs, block, block.distances)
        far, columns = far.sort(1)
        place = torch.searchsorted(far, values * (1 + TIE), right=True).clamp_max_(far.shape[1] - 1)
        nearest = far.gather(1, place)
        within = self._measure(nearest) < self._measure(values) + self.margin
        return _Triplets(values, near, nearest, columns.gather(1, place), (values < nearest) & within)

    def _measure(self, distances: Tensor) -> Tensor:
        """What a triplet compares."""
        return distances.square() if self.squared else distances


class _Triplets(NamedTuple):
    """Mined triplets of a block's anchors, k to an anchor; `near` and `far` are columns of the batch."""

    positive: Tensor  # distances (R, k)
    near: Tensor  # the positives' columns (R, k)
    negative: Tensor  # distances (R, k)
    far: Tensor  # the negatives' columns (R, k)
    valid: Tensor  # bool (R, k)


def _hard(block: Block, far: Tensor) -> _Triplets:
    """For each anchor the farthest positive and the nearest negative."""
    nearest, column = far.min(1, keepdim=True)
    farthest, near = torch.where(block.positive, block.distances, -1).max(1, keepdim=True)
    return _Triplets(farthest, near, nearest, column, (farthest >= 0) & (nearest < torch.inf))


def _sorted_positives(pairs: PairBlocks, block: Block, measure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many positives an anchor has (R,); their measures, ascending, padded with infinity, and columns (R, K)."""
    count = block.positive.sum(1)
    most = max(1, int(count.max()) if pairs.readable else len(pairs.columns) - 1)
    values, columns = torch.where(block.positive, measure, torch.inf).topk(most, 1, largest=False)
    return count, values, columns
