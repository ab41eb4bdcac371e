"""Recall@K, R-precision and MAP@R of embeddings: exact, in one pass, on any number of ranks.

With the R positives of a query in order of distance, the j-th has rank j + n_j, n_j being the number of negatives that
are as near or nearer: ties count against. Recall@K needs n_1 alone, which is counted. R-precision and MAP@R need n_j
where j + n_j <= R, which the R nearest negatives give.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.distributed import own_share, sum_over_ranks
from lifted_lightning.metrics.distances import Array, Distance, fold_sum, full_precision, points_of
from lifted_lightning.metrics.search import GROUP, SPARE, Search, largest

_GROUPS = 2**16  # groups of columns that are looked through at a time


@dataclass(frozen=True)
class RetrievalResult:
    """How each query fared. Items are rows of the embeddings that were ranked.

    Queries without any positive keep their place, with rank 0 and zeros.

    Attributes:
        queries: (Q,) int64 items.
        labels: (Q,) int64, their classes.
        positives: (Q,) int64: R, the number of other items of the query's class that are searched and count.
        rank: (Q,) int64, the rank of the nearest positive, from 1; 0 without one. Ties count against.
        r_precision: (Q,) float64, the share of positives among the R nearest.
        average_precision: (Q,) float64, the mean over ranks 1..R of the precision at those that are hits.
        nearest: (Q, k) int64, the items nearest to the query, itself left out, nearest first; -1 where the gallery
            has no more. Ties go to the lower item.
        distances: (Q, k) float64, to those; infinity where there are none.
    """

    queries: Tensor
    labels: Tensor
    positives: Tensor
    rank: Tensor
    r_precision: Tensor
    average_precision: Tensor
    nearest: Tensor
    distances: Tensor

    @property
    def answerable(self) -> Tensor:
        """(Q,) bool: which queries have a positive."""
        return self.positives > 0

    def metrics(self, ks: Sequence[int] = (1, 2, 4, 8)) -> dict[str, float]:
        """Means over the queries that have a positive; NaN if none has.

        Returns:
            ``recall@K`` for each K, ``r_precision``, ``map@r``, and the number of
            ``queries_without_positive``.
        """
        kept = self.answerable
        rank, count = self.rank[kept], int(kept.sum())
        result = {f"recall@{k}": int((rank <= k).sum()) / count if count else float("nan") for k in ks}
        result["r_precision"] = float(self.r_precision[kept].cpu().mean())
        result["map@r"] = float(self.average_precision[kept].cpu().mean())
        result["queries_without_positive"] = float(len(kept) - count)
        return result

    def per_class_recall(self) -> tuple[Tensor, Tensor, Tensor]:
        """Recall@1 of each class that has a query with a positive.

        Returns:
            (C,) labels, ascending; (C,) float64 recall; (C,) the number of queries it is the mean of.
        """
        kept = self.answerable
        labels, place, counts = self.labels[kept].unique(return_inverse=True, return_counts=True)
        hits = torch.zeros_like(counts).index_add_(0, place, (self.rank[kept] == 1).long())
        return labels, hits / counts.double(), counts


def retrieval_metrics(
    embeddings: Array,
    labels: Array,
    ks: Sequence[int] = (1, 2, 4, 8),
    query: Array | None = None,
    gallery: Array | None = None,
    distance: Distance = "euclidean",
    cameras: Array | None = None,
) -> dict[str, float]:
    """Recall@K, R-precision and MAP@R; see :func:`rank_queries` and :meth:`RetrievalResult.metrics`."""
    return rank_queries(embeddings, labels, query, gallery, distance, cameras=cameras).metrics(ks)


def rank_queries(
    embeddings: Array,
    labels: Array,
    query: Array | None = None,
    gallery: Array | None = None,
    distance: Distance = "euclidean",
    neighbours: int = 1,
    cameras: Array | None = None,
) -> RetrievalResult:
    """Rank every query's positives among all items but the query itself.

    The answer is that of distances in float64, with ties counted against: a negative exactly as far as a
    positive ranks before it. Within a process group, where every rank must hold the same embeddings, each
    rank ranks its part of the queries, and all get the whole result.

    Recall@K as in Oh Song et al., *Deep Metric Learning via Lifted Structured Feature Embedding*, CVPR 2016;
    R-precision and MAP@R as in Musgrave et al., *A Metric Learning Reality Check*, ECCV 2020.

    Args:
        embeddings: (N, D) floating point.
        labels: (N,) whole numbers.
        query: (Q,) rows that are queries, each once; all by default.
        gallery: (G,) rows that are searched, each once; all by default.
        distance: ``"euclidean"`` or ``"cosine"``.
        neighbours: how many of the nearest items of each query to keep, at most G of them.
        cameras: (N,) integers, which camera took each image. If given, items of the query's own class *and* camera
            do not count, as if they were not there; those of other classes from that camera do.

    Raises:
        TypeError: if embeddings are not floating point, or labels are.
        ValueError: if shapes do not match, or a row is out of range or given twice.
        UserError: if an embedding is not finite.
    """
    points = points_of(embeddings, distance)
    classes = torch.as_tensor(labels)
    if classes.is_floating_point():
        raise TypeError(f"labels are {classes.dtype}, not whole numbers")
    classes = classes.long().to(points.device)  # other whole numbers cannot be sorted everywhere
    if classes.shape != points.shape[:1]:
        raise ValueError(f"labels have shape {tuple(classes.shape)}, embeddings {tuple(points.shape)}")
    taken_by = None if cameras is None else torch.as_tensor(cameras).to(points.device)
    if taken_by is not None and taken_by.shape != classes.shape:
        raise ValueError(f"cameras have shape {tuple(taken_by.shape)}, labels {tuple(classes.shape)}")
    queries, searched = _checked(query, "query", classes), _checked(gallery, "gallery", classes)
    with torch.no_grad(), full_precision():
        searched = searched[classes[searched].argsort(stable=True)]  # so that each class has neighbouring columns
        search = Search(points, searched)
        first, last = (torch.searchsorted(classes[searched], classes[queries], right=right) for right in (False, True))
        k = min(neighbours, len(searched))
        whole, real = queries.new_zeros(len(queries)), torch.zeros_like(queries, dtype=torch.float64)
        found = {
            "positives": whole, "rank": whole.clone(), "r_precision": real, "average_precision": real.clone(),
            "nearest": whole.new_zeros(len(queries), k), "distances": real.new_zeros(len(queries), k),
        }  # fmt: skip
        share = own_share(len(queries))
        left = classes[queries].argsort(stable=True)[share.start : share.stop]  # alike many positives in a block
        while len(left):
            most = int((last - first)[left[: search.block_size()]].max())
            block, left = left.tensor_split([search.block_size(8 * most)])
            for name, values in _rank(search, queries[block], first[block], last[block], k, taken_by).items():
                found[name][block] = values
    ranked = {name: sum_over_ranks(values) for name, values in found.items()}
    return RetrievalResult(queries, classes[queries], **ranked)


def _checked(rows: Array | None, name: str, labels: Tensor) -> Tensor:
    if rows is None:
        return torch.arange(len(labels), device=labels.device)
    rows = torch.as_tensor(rows, device=labels.device)
    if rows.ndim != 1 or (len(rows) and (int(rows.min()) < 0 or int(rows.max()) >= len(labels))):
        raise ValueError(f"{name} rows are not a vector of rows within 0..{len(labels) - 1}")
    if len(rows.unique()) != len(rows):
        raise ValueError(f"{name} rows are not distinct")
    return rows.long()


def _rank(
    search: Search, queries: Tensor, first: Tensor, last: Tensor, k: int, cameras: Tensor | None
) -> dict[str, Tensor]:
    """How queries (n,) fare whose classes are the columns ``first`` to ``last - 1`` (n,), as in ``RetrievalResult``."""
    scores = search.scores(queries)
    columns = first[:, None] + torch.arange(max(1, int((last - first).max())), device=first.device)
    columns = columns.where(columns < last[:, None], search.padding)
    if cameras is not None:
        own = cameras[search.items[columns]] == cameras[queries, None]
        scores.scatter_(1, columns.where(own, search.padding), -torch.inf)
    if k:
        distances, nearest = search.nearest(queries, scores, k)
    else:  # nothing is searched, or nothing is kept
        distances, nearest = scores.new_empty(len(queries), 0).double(), queries.new_empty(len(queries), 0)
    positives = scores.gather(1, columns)  # (n, P), -inf where there is none
    scores.scatter_(1, columns, -torch.inf)  # the negatives are left
    total = (positives > -torch.inf).sum(1)
    listed = largest(scores, int(total.max()) + SPARE)
    ranks = 1 + _negatives_before(search, queries, columns, positives, *listed).sort(1).values
    order = torch.arange(ranks.shape[1], device=ranks.device)
    ranks += order
    hits = (ranks <= total[:, None]).double()
    some = total.clamp(min=1)
    before = _negatives_before_first(search, queries, columns, positives, scores)
    return {
        "positives": total,
        "rank": (1 + before).where(total > 0, 0),
        "r_precision": fold_sum(hits.clone()) / some,
        "average_precision": fold_sum(hits * (1 + order) / ranks) / some,
        "nearest": nearest,
        "distances": distances.sqrt(),
    }


def _negatives_before(
    search: Search, queries: Tensor, columns: Tensor, positives: Tensor, negatives: Tensor, negative_columns: Tensor
) -> Tensor:
    """For each positive (n, P) how many negatives are as near or nearer, exact below R; R or more from there on.

    Args:
        search: the items that are searched.
        queries: (n,) items.
        columns: (n, P) of the positives.
        positives: (n, P) their scores, -inf where there is none.
        negatives: (n, L) the largest scores of negatives, descending, L > R or all of them.
        negative_columns: (n, L) their columns.
    """
    total = (positives > -torch.inf).sum(1, keepdim=True)
    margin = 2 * search.error_bound(queries)[:, None]
    near, far = -negatives, -positives
    certain = torch.searchsorted(near, (far - margin).float())
    possible = torch.searchsorted(near, (far + margin).float(), right=True)
    unsure = (positives > -torch.inf) & (certain < possible) & (certain < total)
    limits = search.distances_of_scores(queries, positives)
    distances = search.distances_of_scores(queries, negatives)
    if unsure.any():
        # Exact distances of these positives, and of the negatives within the margin of any of them.
        at, place = unsure.nonzero(as_tuple=True)
        limits[at, place] = search.exact(queries[at], columns[at, place])
        close = far.masked_fill(~unsure, torch.inf).sort(1).values
        from_, to = (near - margin).float(), (near + margin).float()
        needed = torch.searchsorted(close, from_) < torch.searchsorted(close, to, right=True)
        at, place = (needed & (negatives > -torch.inf)).nonzero(as_tuple=True)
        distances[at, place] = search.exact(queries[at], negative_columns[at, place])
    before = torch.searchsorted(distances.sort(1).values, limits, right=True)
    # A list that ends within the margin may have left out negatives that are as near.
    cut = unsure & (possible == near.shape[1]) & (before < total)
    if near.shape[1] < search.count:
        every = torch.arange(search.count, device=near.device)
        for query in cut.any(1).nonzero()[:, 0]:
            everything = search.exact(queries[query].expand(search.count), every)
            own = columns[query][columns[query] < search.padding]
            limits[query] = torch.cat([everything, everything.new_full((1,), torch.inf)])[columns[query]]
            everything[own] = torch.inf
            before[query] = torch.searchsorted(everything.sort().values, limits[query], right=True)
    return before.masked_fill(positives == -torch.inf, torch.iinfo(torch.int64).max // 2)


def _negatives_before_first(
    search: Search, queries: Tensor, columns: Tensor, positives: Tensor, scores: Tensor
) -> Tensor:
    """(n,) how many negatives are as near as the nearest positive, or nearer.

    As for :func:`_negatives_before`, but for ``scores`` (n, W) of all negatives, -inf elsewhere. They are spoilt.
    """
    bound = search.error_bound(queries)
    reach = (positives.amax(1) - 2 * bound).float()[:, None]
    at, place = ((positives >= reach) & (positives > -torch.inf)).nonzero(as_tuple=True)
    first = torch.full_like(bound, -torch.inf)  # nearer than anything, of a query without positive
    first.scatter_reduce_(0, at, search.exact(queries[at], columns[at, place]), "amin", include_self=False)
    score = search.scores_of_distances(queries, first)
    low, high = (score - bound).float()[:, None], (score + bound).float()[:, None]
    # As numbers, not booleans: these are summed several times faster.
    above = torch.gt(scores, high, out=search.memory("above", len(scores)))
    count = above.sum(1).long()
    groups = scores.sub_(above, alpha=1e30).view(len(scores), GROUP, -1)
    close = groups.amax(1) >= low
    if close.sum() * GROUP > close.numel():  # a collapsed network: too many to list, most of them like the query
        like = (search.same[search.items] == search.same[queries, None]) & (scores >= low)
        count += above.copy_(like).sum(1).long()
        scores.masked_fill_(like, -torch.inf)
        close = groups.amax(1) >= low
    for part in close.nonzero().split(_GROUPS):
        at, group = part.T
        member, place = (groups[at, :, group] >= low[at]).nonzero(as_tuple=True)
        at, column = at[member], group[member] + place * groups.shape[2]
        nearer = search.exact(queries[at], column) <= first[at]
        count += torch.bincount(at[nearer], minlength=len(count))
    return count
