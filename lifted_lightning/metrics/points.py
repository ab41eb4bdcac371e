"""Embeddings made ready for exact search: single-precision scores with an error bound, and exact distances.

Neighbours of x are ranked by h(y) = x·y - |y|²/2, larger for nearer: |x - y|² = |x|² - 2h(y). h is one matrix
product away, in single precision, of embeddings that are centred and scaled first (neither changes a
ranking). Where two scores are closer than the product's error bound, the float64 distances decide.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lifted_lightning.errors import UserError

Distance = Literal["euclidean", "cosine"]

_ROWS = 1024  # rows converted to float64 at a time
_PAIR_VALUES = 2**20  # float64 values of a chunk of pairs: 8 MB, near the cache


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in IEEE single precision, whatever is allowed elsewhere (TF32, bfloat16, autocast)."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def fold_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension by halves, in place.

    The order of additions depends on the length alone, and trailing zeros do not change it: so equal rows
    have equal sums, on every device and in whatever batch they come. ``torch.sum`` promises neither.
    """
    width = values.shape[-1]
    if width == 0:
        return values.sum(-1)
    half = 1 << (width - 1).bit_length() >> 1
    while half >= 1:
        rest = values.shape[-1] - half
        if rest > 0:
            values[..., :rest] += values[..., half:]
        values = values[..., :half]
        half //= 2
    return values[..., 0]


@dataclass(frozen=True)
class Points:
    """N embeddings.

    Attributes:
        exact: (N, D); the float64 differences of these rows define the distances.
        coarse: (N, D + 1) float32: centred and scaled to within the unit ball or so, and -|y|²/2.
        squared_norms: (N,) float64, of the centred and scaled rows.
        scale: what the rows were multiplied by, a power of two.
        same: (N,) int64, equal for identical rows only: the first such row, but for hash collisions.
    """

    exact: Tensor
    coarse: Tensor
    squared_norms: Tensor
    scale: float
    same: Tensor

    def queries(self, rows: Tensor) -> Tensor:
        """(n, D + 1) left factor of the product that gives the scores of these rows."""
        left = self.coarse[rows]
        left[:, -1] = 1.0
        return left

    def error_bound(self, rows: Tensor) -> Tensor:
        """(n,) float64: how far a coarse score of these rows may lie from its value by exact distances.

        A sum of n products in any order errs by at most n·u/(1 - n·u) times the sum of their magnitudes
        (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1), which Cauchy-Schwarz bounds
        by |x||y| + |y|²/2. The roundings to float32 of inputs and thresholds are counted as further terms.
        """
        roundings = (self.exact.shape[1] + 16) * 2.0**-24
        largest = self.squared_norms.max()
        magnitude = (self.squared_norms[rows] * largest).sqrt() + largest / 2
        return roundings / (1 - roundings) * magnitude + 1e-30

    def scores(self, rows: Tensor, squared_distances: Tensor) -> Tensor:
        """The scores, in float64, that belong to exact squared distances (n,) from these rows."""
        return (self.squared_norms[rows] - squared_distances * self.scale**2) / 2

    def distances_of_scores(self, rows: Tensor, scores: Tensor) -> Tensor:
        """Squared distances, in float64, that belong to coarse scores (n, k) of these rows (n,)."""
        return (self.squared_norms[rows, None] - 2 * scores.double()) / self.scale**2

    def squared_distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Exact squared distances, in float64, of pairs of rows (n,) and (n,)."""
        result = torch.zeros(len(first), dtype=torch.float64, device=self.exact.device)
        if not len(first):
            return result
        apart = (self.same[first] != self.same[second]).nonzero()[:, 0]
        for pairs in apart.split(max(1, _PAIR_VALUES // self.exact.shape[1])):
            difference = self.exact[first[pairs]].double()
            difference -= self.exact[second[pairs]]
            result[pairs] = fold_sum(difference.square_())
        return result


def prepare(embeddings: Tensor, distance: Distance) -> Points:
    """Make embeddings (N, D) ready for search.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if they are not a matrix, or the distance is unknown.
        UserError: if some are not finite.
    """
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}, not (N, D)")
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings are {embeddings.dtype}, not floating point")
    exact = embeddings.detach()
    if exact.dtype not in (torch.float32, torch.float64):
        exact = exact.float()
    infinite = int((~torch.isfinite(exact).all(1)).sum()) if _may_be_infinite(exact) else 0
    if infinite:
        raise UserError(
            f"{infinite} of {len(exact)} embeddings are not finite: training has diverged; lower the learning rate"
        )
    if distance == "cosine":
        exact = normalised(exact)
    elif distance != "euclidean":
        raise ValueError(f"distance is {distance!r}, not 'euclidean' or 'cosine'")
    return _centred(exact)


def _may_be_infinite(rows: Tensor) -> bool:
    """A quick look; the extremes of a column show what is not finite in it."""
    if not rows.numel():
        return False
    least, most = rows.aminmax(dim=0)
    return not bool(torch.isfinite(most - least).all())


def normalised(embeddings: Tensor) -> Tensor:
    """Rows of length one in float64; a zero row stays zero."""
    result = embeddings.to(torch.float64, copy=True)
    for rows in result.split(_ROWS):
        norms = fold_sum(rows.square()).sqrt_()
        rows /= norms.masked_fill_(norms == 0, 1.0)[:, None]
    return result


def _centred(exact: Tensor) -> Points:
    count, width = exact.shape
    coarse = torch.empty(count, width + 1, dtype=torch.float32, device=exact.device)
    squared_norms = torch.empty(count, dtype=torch.float64, device=exact.device)
    scale = 1.0
    if count and width:
        least, most = (bound.double() for bound in exact.aminmax(dim=0))
        centre = (least + most) / 2
        spread = float((most - least).square().sum().sqrt())
        scale = 2.0 ** -round(math.log2(spread)) if spread > 0 else 1.0
        for start in range(0, count, _ROWS):
            rows = exact[start : start + _ROWS].double() - centre
            rows *= scale
            coarse[start : start + _ROWS, :width] = rows
            squared_norms[start : start + _ROWS] = rows.square_().sum(1)
    coarse[:, width] = squared_norms / -2
    return Points(exact, coarse, squared_norms, scale, _first_identical(exact))


def _first_identical(rows: Tensor) -> Tensor:
    """(N,) for each row the first one that is identical to it, or itself."""
    count, width = rows.shape
    own = torch.arange(count, device=rows.device)
    if not width:
        return torch.zeros_like(own)
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (width,), generator=generator).to(rows.device) | 1
    hashes = torch.empty_like(own)
    for start in range(0, count, _ROWS):
        # + 0.0 turns -0.0 into 0.0, which is as far from everything.
        bits = (rows[start : start + _ROWS] + 0.0).view(torch.int32 if rows.dtype == torch.float32 else torch.int64)
        hashes[start : start + _ROWS] = (bits * factors).sum(1)
    ordered, order = hashes.sort(stable=True)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    first = torch.empty_like(own)
    first[order] = order[starts][starts.cumsum(0) - 1]
    candidates = (first != own).nonzero()[:, 0]
    for some in candidates.split(_ROWS):
        differs = (rows[some] != rows[first[some]]).any(1)
        first[some[differs]] = some[differs]
    return first
