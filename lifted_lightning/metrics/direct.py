"""Exact nearest neighbours of one query: every item is looked at once, and the gallery is not made ready first.

Making a gallery ready (``points.prepare``) pays for itself over many queries only.
"""

import torch
from torch import Tensor

from lifted_lightning.metrics.points import Distance, fold_sum, normalised

_CANDIDATES = 2**14  # whose exact distances are taken at a time


def nearest_directly(
    query: Tensor, gallery: Tensor, k: int, exclude: int, distance: Distance
) -> tuple[Tensor, Tensor] | None:
    """Find one query's k nearest items, by distances in float64; ties go to the lower row.

    Coarse distances choose candidates, with a bound on their error; distances in float64 decide among these.

    Args:
        query: (D,) float32 or float64.
        gallery: (G, D), of the same type.
        k: how many neighbours, at most G, or G - 1 if one is left out.
        exclude: the row that is left out; negative for none.
        distance: ``"euclidean"`` or ``"cosine"``.

    Returns:
        (k,) float64 distances and (k,) int64 rows; None where numbers are too large, too small or not finite.
    """
    coarse, relative, absolute = (_by_angle if distance == "cosine" else _by_difference)(query, gallery)
    if not bool(coarse.isfinite().all()):
        return None
    if exclude >= 0:
        coarse[exclude] = torch.inf
    farthest = float(coarse.topk(k, largest=False).values[-1])
    # Whatever is coarsely farther than this lies farther than k others: the bound counts for both.
    candidates = (coarse <= farthest * (1 + 2 * relative) + 2 * absolute).nonzero()[:, 0]
    candidates = candidates[candidates != exclude]
    squared = torch.cat([_squared(query, gallery[rows], distance) for rows in candidates.split(_CANDIDATES)])
    order = squared.sort(stable=True).indices[:k]
    return squared[order].sqrt(), candidates[order]


# Coarse distances (G,), and bounds on their relative and absolute errors. A sum of n products in any order errs by at
# most n·u/(1 - n·u) times the sum of their magnitudes (Higham, *Accuracy and Stability of Numerical Algorithms*,
# section 3.1); eps is 2u, and 16 is for the other roundings.


def _by_difference(query: Tensor, gallery: Tensor) -> tuple[Tensor, float, float]:
    """Euclidean distances. All terms are positive, so that the error is relative, but for squares that underflow."""
    direct = "donot_use_mm_for_euclid_dist"  # a difference loses nothing where a product cancels
    width = gallery.shape[1]
    coarse = torch.cdist(query[None], gallery, compute_mode=direct)[0]
    return coarse, (width + 16) * torch.finfo(coarse.dtype).eps, width * 1e-18


def _by_angle(query: Tensor, gallery: Tensor) -> tuple[Tensor, float, float]:
    """Half the squared distances at length one, 1 - cos; not a number where a length has no reciprocal."""
    lengths = torch.linalg.vector_norm(gallery, dim=1)
    usable = (lengths > 1e-12) & lengths.isfinite()
    cosines = (gallery @ normalised(query[None])[0].to(gallery.dtype)) / lengths.where(usable, torch.nan)
    return 1 - cosines, 0.0, 2 * (gallery.shape[1] + 16) * torch.finfo(cosines.dtype).eps


def _squared(query: Tensor, rows: Tensor, distance: Distance) -> Tensor:
    """(n,) squared distances of rows (n, D) in float64, as ``Points.squared_distances`` has them."""
    if distance == "cosine":
        query, rows = normalised(query[None])[0], normalised(rows)
    return fold_sum((rows.double() - query).square_())
