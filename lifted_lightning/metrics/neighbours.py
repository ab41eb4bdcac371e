"""Exact nearest neighbours, in blocks."""

import torch
from torch import Tensor

from lifted_lightning.metrics.direct import nearest_directly
from lifted_lightning.metrics.points import Distance, Points, full_precision, prepare
from lifted_lightning.metrics.scan import Best, Columns, Tile

_SPARE = 4  # candidates beyond k, so that near ties at the k-th are seldom cut off
_FEW = 16  # queries, up to which making the gallery ready takes longer than looking at each item for each


def nearest(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    exclude: Tensor | None = None,
    distance: Distance = "euclidean",
) -> tuple[Tensor, Tensor]:
    """Find each query's k nearest items of the gallery, by distances in float64; ties go to the lower row.

    Args:
        queries: (Q, D) floating point.
        gallery: (G, D) floating point.
        k: how many neighbours; fewer are given where the gallery does not have as many.
        exclude: (Q,) row of the gallery that each query leaves out, usually itself; negative for none.
        distance: ``"euclidean"``, or ``"cosine"``, which is the Euclidean distance at length one.

    Returns:
        (Q, min(k, G)) float64 distances, ascending, and (Q, min(k, G)) int64 rows of the gallery. With
        ``exclude`` there are min(k, G - 1) of them.

    Raises:
        ValueError: if the sizes of embeddings differ, or ``k`` is not positive.
    """
    if queries.shape[1:] != gallery.shape[1:]:
        raise ValueError(f"queries have shape {tuple(queries.shape)}, gallery {tuple(gallery.shape)}")
    if k < 1:
        raise ValueError(f"k is {k}, not positive")
    same_set = queries is gallery
    k = min(k, len(gallery) - (exclude is not None))
    if k < 1 or not len(queries):
        empty = queries.new_empty(len(queries), max(k, 0), dtype=torch.float64)
        return empty, empty.long()
    with torch.no_grad(), full_precision():
        found = _one_by_one(queries, gallery, k, exclude, distance) if len(queries) <= _FEW else None
        if found is not None:
            return found
        points = prepare(gallery if same_set else torch.cat([gallery, queries]), distance)
        columns = Columns(points, torch.arange(len(gallery), device=gallery.device))
        rows = torch.arange(len(queries), device=gallery.device) + (0 if same_set else len(gallery))
        parts = []
        for block in torch.arange(len(rows), device=rows.device).split(columns.tile.queries):
            left_out = None if exclude is None else exclude.to(rows.device)[block]
            parts.append(_search(points, columns, rows[block], k, left_out))
    return torch.cat([part[0] for part in parts]).sqrt(), torch.cat([part[1] for part in parts])


def _one_by_one(
    queries: Tensor, gallery: Tensor, k: int, exclude: Tensor | None, distance: Distance
) -> tuple[Tensor, Tensor] | None:
    """What ``nearest`` returns, for few queries; None if numbers are out of the range of that way."""
    if gallery.dtype not in (torch.float32, torch.float64) or queries.dtype != gallery.dtype:
        return None
    left_out = [-1] * len(queries) if exclude is None else exclude.tolist()
    parts = []
    for query, row in zip(queries.detach(), left_out, strict=True):
        part = nearest_directly(query, gallery.detach(), k, row, distance)
        if part is None:
            return None
        parts.append(part)
    return torch.stack([part[0] for part in parts]), torch.stack([part[1] for part in parts])


def _search(points: Points, columns: Columns, rows: Tensor, k: int, exclude: Tensor | None) -> tuple[Tensor, Tensor]:
    """Squared distances (b, k) and columns (b, k) of the nearest of a block of queries."""
    queries = points.queries(rows)
    best = Best(k + _SPARE)
    for start, tile in columns.tiles(queries):
        _leave_out(tile, start, exclude)
        best.add(Tile(start, tile, best.limit))
    scores, found = best.sorted()
    bound = points.error_bound(rows)
    # Whatever scores lower than this lies farther than k others.
    reach = (scores[:, k - 1] - 2 * bound).float()
    candidates = scores >= reach[:, None]
    distances = torch.full(scores.shape, torch.inf, dtype=torch.float64, device=scores.device)
    at, place = candidates.nonzero(as_tuple=True)
    distances[at, place] = points.squared_distances(rows[at], columns.rows[found[at, place]])
    distances, found = _in_order(distances, found, k)
    cut = candidates[:, -1] & (scores.shape[1] < len(columns))
    for query in cut.nonzero()[:, 0].tolist():
        whole = columns.scores(queries[query : query + 1], 0, len(columns))
        _leave_out(whole, 0, None if exclude is None else exclude[query : query + 1])
        some = (whole[0] >= reach[query]).nonzero()[:, 0]
        exact = points.squared_distances(rows[query].expand(len(some)), columns.rows[some])
        one = _in_order(exact[None], some[None], k)
        distances[query], found[query] = one[0][0], one[1][0]
    return distances, found


def _leave_out(tile: Tensor, start: int, exclude: Tensor | None) -> None:
    """Set the excluded columns (b,) to -inf in a tile (b, w) whose first column is ``start``."""
    if exclude is None:
        return
    inside = (exclude >= start) & (exclude < start + tile.shape[1])
    at = inside.nonzero()[:, 0]
    tile[at, exclude[at] - start] = -torch.inf


def _in_order(distances: Tensor, columns: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of each row (b, m) by distance, then by column."""
    columns, order = columns.sort(1)
    distances, nearer = distances.gather(1, order).sort(stable=True, dim=1)
    return distances[:, :k], columns.gather(1, nearer[:, :k])
