"""Exact nearest neighbours of few queries: distances to every item at once, without making the gallery ready.

Making a gallery ready (``points.prepare``) pays for itself over many queries; one query is answered many times faster
by looking at each item once.
"""

import torch
from torch import Tensor

from lifted_lightning.metrics.points import Distance, fold_sum, normalised

_BLOCK = 2**20  # values of the gallery that are looked at a time: what stays in the cache


def nearest_directly(
    query: Tensor, gallery: Tensor, k: int, exclude: int, distance: Distance
) -> tuple[Tensor, Tensor] | None:
    """Find one query's k nearest items, by distances in float64; ties go to the lower row.

    Distances in the embeddings' own precision choose candidates, with a bound on their error; distances in float64
    decide among these. A sum of n terms in any order errs by at most n·u/(1 - n·u) of the sum of their magnitudes
    (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1): here all are positive.

    Args:
        query: (D,) float32 or float64.
        gallery: (G, D), of the same type.
        k: how many neighbours, at most G, or G - 1 if one is left out.
        exclude: the row that is left out; negative for none.
        distance: ``"euclidean"`` or ``"cosine"``.

    Returns:
        (k,) float64 distances and (k,) int64 rows; None where numbers are too large, too small or not finite.
    """
    coarse = _distances(query, gallery, distance)
    if not bool(coarse.isfinite().all()):
        return None
    if exclude >= 0:
        coarse[exclude] = torch.inf
    error = (gallery.shape[1] + 16) * torch.finfo(coarse.dtype).eps
    # At length one the error of both rows' roundings comes in addition; the last term is for underflow.
    absolute = (4 * error if distance == "cosine" else 0.0) + gallery.shape[1] * 1e-18
    farthest = float(coarse.topk(k, largest=False).values[-1])
    candidates = (coarse <= farthest * (1 + 2 * error) + 2 * absolute).nonzero()[:, 0]
    candidates = candidates[candidates != exclude]
    squared = torch.cat([_squared(query, gallery[rows], distance) for rows in candidates.split(2**14)])
    order = squared.sort(stable=True).indices[:k]
    return squared[order].sqrt(), candidates[order]


def _distances(query: Tensor, gallery: Tensor, distance: Distance) -> Tensor:
    """(G,) distances in the embeddings' precision."""
    rows = max(1, _BLOCK // max(1, gallery.shape[1]))
    if distance == "cosine":
        query = normalised(query[None]).to(query.dtype)
        parts = [_at_length_one(query, block) for block in gallery.split(rows)]
    else:
        direct = "donot_use_mm_for_euclid_dist"  # a difference loses nothing where a product cancels
        parts = [torch.cdist(query[None], block, compute_mode=direct) for block in gallery.split(rows)]
    return torch.cat(parts, 1)[0]


def _at_length_one(query: Tensor, block: Tensor) -> Tensor:
    """(1, n) distances of rows scaled to length one; not a number where the length has no reciprocal."""
    lengths = torch.linalg.vector_norm(block, dim=1, keepdim=True)
    usable = (lengths > 1e-12) & lengths.isfinite()
    return torch.cdist(
        query,
        block / lengths.where(usable, torch.nan),
        compute_mode="donot_use_mm_for_euclid_dist",
    )


def _squared(query: Tensor, rows: Tensor, distance: Distance) -> Tensor:
    """(n,) squared distances of rows (n, D) in float64, as ``Points.squared_distances`` has them."""
    if distance == "cosine":
        query, rows = normalised(query[None])[0], normalised(rows)
    return fold_sum((rows.double() - query).square_())
