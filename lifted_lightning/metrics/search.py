"""Exact search: a product of matrices decides what is clear, and distances in float64 decide the rest.

The nearest items y of a query x are those with the largest h(y) = x·y - |y|²/2, for |x - y|² = |x|² - 2h(y). All h of
a query are one row of a matrix product, of embeddings that are centred and scaled first, which changes no ranking.
Where two of these scores are closer than the product's error, the float64 distances of the embeddings decide.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from lifted_lightning.metrics.distances import Array, Distance, fold_sum, full_precision, points_of, squared_distances

SPARE = 4  # candidates beyond those wanted, so that near ties at the end of a list are seldom cut off
GROUP = 16  # columns whose largest score is looked at first: several times faster than looking at all
FEW = 32  # queries for which the items as they are do: to make a search ready would take longer
_ROWS = 1024  # rows converted to float64 at a time


class Search:
    """The items that are searched, made ready.

    An item is a row of the embeddings; a column is a place among the items that are searched.

    Args:
        embeddings: (N, D) as ``distances.points_of`` gives them.
        items: (G,) the items that are searched, each once. They are the first G columns, in this order.

    Attributes:
        items: (W,) the item of each column, -1 for padding.
        column: (N,) the column of each item; that of padding for an item that is not searched.
        padding: a column that holds no item: its score is always -inf.
        same: (N,) int64, equal for identical embeddings only.
    """

    def __init__(self, embeddings: Tensor, items: Tensor) -> None:
        self.embeddings = embeddings
        self.count = len(items)
        self.padding = self.count
        width = self.count + GROUP - self.count % GROUP  # one column of padding at least
        self.items = torch.nn.functional.pad(items, (0, width - self.count), value=-1)
        self.column = torch.full((len(embeddings),), self.padding, device=items.device)
        self.column[items] = torch.arange(self.count, device=items.device)
        none = torch.zeros(len(embeddings), dtype=torch.int64, device=items.device)
        self.same = torch.unique(embeddings, dim=0, return_inverse=True)[1] if embeddings.numel() else none
        self._coarse, self._squared_norms, self._scale = _centred(embeddings)
        self._gallery = self._coarse[items]
        self._memory: dict[str, Tensor] = {}

    def block_size(self, more: int = 0) -> int:
        """How many queries to take at a time: what keeps the processor busy, and the memory within bounds.

        Args:
            more: values that are held for each query besides its scores.
        """
        values = 2**24 if self.items.device.type == "cpu" else 2**26
        return max(1, values // (len(self.items) + more))

    def memory(self, name: str, count: int) -> Tensor:
        """(count, W) float32 of any content; what had this name is written over."""
        if len(self._memory.get(name, ())) < count:
            self._memory[name] = self._gallery.new_empty(count, len(self.items))
        return self._memory[name][:count]

    def scores(self, queries: Tensor) -> Tensor:
        """(n, W) scores of the columns for items ``queries`` (n,), each query's own and padding at -inf.

        They are written over by the next call.
        """
        result = self.memory("scores", len(queries))
        left = self._coarse[queries]
        left[:, -1] = 1.0
        torch.mm(left, self._gallery.T, out=result[:, : self.count])
        result[:, self.count :] = -torch.inf
        return result.scatter_(1, self.column[queries, None], -torch.inf)  # no item is its own neighbour

    def error_bound(self, queries: Tensor) -> Tensor:
        """(n,) float64: how far a score of these items may lie from its value by exact distances.

        A sum of n products in any order errs by at most n·u/(1 - n·u) times the sum of their magnitudes
        (Higham, *Accuracy and Stability of Numerical Algorithms*, section 3.1), which Cauchy-Schwarz bounds
        by |x||y| + |y|²/2. The roundings to float32 of inputs and thresholds are counted as further terms.
        """
        roundings = (self.embeddings.shape[1] + 16) * 2.0**-24
        largest = self._squared_norms.max()
        magnitude = (self._squared_norms[queries] * largest).sqrt() + largest / 2
        return roundings / (1 - roundings) * magnitude + 1e-30

    def scores_of_distances(self, queries: Tensor, squared_distances: Tensor) -> Tensor:
        """(n,) float64: the scores that belong to squared distances (n,) from these items."""
        return (self._squared_norms[queries] - squared_distances * self._scale**2) / 2

    def distances_of_scores(self, queries: Tensor, scores: Tensor) -> Tensor:
        """(n, m) float64: the squared distances that belong to scores (n, m) of these items (n,)."""
        return (self._squared_norms[queries, None] - 2 * scores.double()) / self._scale**2

    def exact(self, queries: Tensor, columns: Tensor) -> Tensor:
        """(n,) squared distances in float64 from items to columns, (n,) each."""
        others = self.items[columns]
        result = torch.zeros(len(queries), dtype=torch.float64, device=queries.device)
        apart = (self.same[queries] != self.same[others]).nonzero()[:, 0]  # a collapsed network has few
        result[apart] = squared_distances(self.embeddings, queries[apart], others[apart])
        return result

    def nearest(self, queries: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k <= G nearest of items ``queries`` (n,), by their scores (n, W); ties go to the lower item.

        Returns:
            (n, k) squared distances in float64, ascending, and (n, k) items; infinity and -1 where there are fewer.
        """
        best, columns = largest(scores, k + SPARE)
        reach = (best[:, k - 1] - 2 * self.error_bound(queries)).float()
        candidate = (best >= reach[:, None]) & (best > -torch.inf)  # all others lie farther than k of them
        at, place = candidate.nonzero(as_tuple=True)
        distances = torch.full(best.shape, torch.inf, dtype=torch.float64, device=best.device)
        distances[at, place] = self.exact(queries[at], columns[at, place])
        items, order = self.items[columns].where(candidate, -1).sort(1)
        distances, order = distances.gather(1, order).sort(stable=True, dim=1)
        distances, items = distances[:, :k], items.gather(1, order)[:, :k]
        if best.shape[1] < self.count:  # a list that ends within reach may have left out some that are as near
            by_item = self.items[: self.count].argsort()
            for query in candidate[:, -1].nonzero()[:, 0]:
                columns = by_item[(scores[query] >= reach[query])[by_item]]
                distances[query], place = smallest(self.exact(queries[query].expand(len(columns)), columns), k)
                items[query] = self.items[columns[place]]
        return distances, items


def largest(scores: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """The ``limit`` largest scores of each row (n, W), in descending order, and their columns.

    They lie in the ``limit`` groups of columns with the largest maxima, so that few are sorted. W is a multiple of 16.
    """
    groups = scores.view(len(scores), GROUP, -1)
    stride = groups.shape[2]
    if 4 * limit > stride:
        return scores.topk(min(limit, scores.shape[1]))
    best = groups.amax(1).topk(limit, sorted=False).indices
    members = groups.gather(2, best[:, None].expand(-1, GROUP, -1)).flatten(1)
    values, place = members.topk(limit)
    return values, best.gather(1, place % limit) + place.div(limit, rounding_mode="floor") * stride


def smallest(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of (n,) distances, ascending, and their places; ties go to the lower place."""
    last = distances.topk(k, largest=False).values[-1]
    places = (distances <= last).nonzero()[:, 0]
    values, order = distances[places].sort(stable=True)
    return values[:k], places[order[:k]]


def _centred(embeddings: Tensor) -> tuple[Tensor, Tensor, float]:
    """Embeddings within the unit ball or so, (N, D + 1) float32, the last column -|y|²/2; (N,) float64 |y|²; the scale.

    The scale is what the centred rows were multiplied by, a power of two.
    """
    count, width = embeddings.shape
    coarse = torch.empty(count, width + 1, dtype=torch.float32, device=embeddings.device)
    squared_norms = torch.zeros(count, dtype=torch.float64, device=embeddings.device)
    scale = 1.0
    if count and width:
        least, most = embeddings.amin(0).double(), embeddings.amax(0).double()  # faster than aminmax
        spread = float((most - least).square().sum().sqrt())
        scale = 2.0 ** -round(math.log2(spread)) if spread > 0 else 1.0
        for start in range(0, count, _ROWS):
            rows = embeddings[start : start + _ROWS].double() - (least + most) / 2
            rows *= scale
            coarse[start : start + _ROWS, :width] = rows
            squared_norms[start : start + _ROWS] = rows.square_().sum(1)
    coarse[:, width] = squared_norms / -2
    return coarse, squared_norms, scale


def nearest(
    queries: Array, gallery: Array, k: int, exclude: Tensor | None = None, distance: Distance = "euclidean"
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
        ValueError: if the sizes of embeddings differ, ``k`` is not positive, or the distance is unknown.
        UserError: if some embeddings are not finite.
    """
    vectors, items = points_of(queries, distance), points_of(gallery)
    if vectors.shape[1] != items.shape[1]:
        raise ValueError(f"queries have shape {tuple(vectors.shape)}, gallery {tuple(items.shape)}")
    if k < 1:
        raise ValueError(f"k is {k}, not positive")
    k = min(k, len(items) - (exclude is not None))
    if k < 1 or not len(vectors):
        empty = torch.empty(len(vectors), max(k, 0), dtype=torch.float64, device=items.device)
        return empty, empty.long()
    left_out = torch.full((len(vectors),), -1) if exclude is None else torch.as_tensor(exclude).clamp(min=-1)
    with torch.no_grad(), full_precision():
        if len(vectors) <= FEW:
            parts = list(_nearest_of_few(vectors, items, k, left_out.tolist(), distance))
        else:
            points = torch.cat([points_of(items, distance), vectors])
            search = Search(points, torch.arange(len(items), device=items.device))
            left_out = left_out.to(items.device).where(left_out.to(items.device) >= 0, search.padding)
            parts = []
            for block in torch.arange(len(vectors), device=items.device).split(search.block_size()):
                scores = search.scores(len(items) + block).scatter_(1, left_out[block, None], -torch.inf)
                parts.append(search.nearest(len(items) + block, scores, k))
    return torch.cat([part[0] for part in parts]).sqrt(), torch.cat([part[1] for part in parts])


def _nearest_of_few(
    queries: Tensor, items: Tensor, k: int, left_out: list[int], distance: Distance
) -> Iterator[tuple[Tensor, Tensor]]:
    """Squared distances (1, k) and rows (1, k) for each of so few queries that a search is not worth making ready.

    Scores are of the items as they are: x·y - |y|²/2, or the cosine. An item's norm bounds its score's error (Higham,
    as above) unless its square may overflow or underflow; float64 decides among those that may be the nearest.
    """
    norms = torch.linalg.vector_norm(items, dim=1)
    halves, usable = norms.square() / 2, (norms > 1e-12) & (norms < 1e12)
    share = (items.shape[1] + 16) * torch.finfo(items.dtype).eps
    for query, product, leave in zip(queries, queries.to(items.dtype) @ items.T, left_out, strict=True):
        length, cosine = float(query.norm()), distance == "cosine"
        score = product / norms if cosine else product - halves
        error = torch.full_like(norms, share) if cosine else share * (length * norms + halves)
        sure = usable & (length < 1e12)
        score, error = score.where(sure, 0.0), error.where(sure, torch.inf)
        least = score - error
        least[leave : leave + 1] = -torch.inf  # none where it is -1
        rows = (score + error >= least.topk(k).values[-1]).nonzero()[:, 0]
        rows = rows[rows != leave]
        near = (points_of(items[some], distance).double() for some in rows.split(_ROWS))
        distances, place = smallest(torch.cat([fold_sum((some - query).square_()) for some in near]), k)
        yield distances[None], rows[place][None]
