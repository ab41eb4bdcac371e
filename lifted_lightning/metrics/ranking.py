"""Ranks of the positives of each query, exact, in one pass over the scores and without an N x N matrix.

With the positives of a query in order of distance, the j-th has rank j + n_j, n_j being the number of
negatives that are as near or nearer: ties count against. Recall@K needs n_1 alone, which is counted.
R-precision and MAP@R need n_j where j + n_j <= R, which the R nearest negatives give.

Items are in order of label, so that the positives of a block of queries are neighbouring columns.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.metrics.points import Points, fold_sum
from lifted_lightning.metrics.scan import Best, Columns, Tile

_BLOCK_VALUES = 2**23  # bounds (queries of a block) x (positives of one query)
_SPARE = 4  # nearest negatives kept beyond R, so that ties at the end of the list are seldom cut off
_MUCH = 16  # one in so many is many
_NONE = torch.iinfo(torch.int64).max // 2


@dataclass(frozen=True)
class Ranks:
    """For each of n queries: the rank of its nearest positive, R-precision and average precision at R."""

    nearest: Tensor
    r_precision: Tensor
    average_precision: Tensor


@dataclass
class _Block:
    """What is known of b queries, whose positives are P of the columns at most.

    Scores and bounds are in the units of ``Points``; distances are squared.
    """

    rows: Tensor  # (b,) rows of the queries in the points
    left: Tensor  # (b, D + 1) left factor of the scores
    first: Tensor  # (b,) columns first..last - 1 are of the query's class
    last: Tensor
    bound: Tensor  # (b,) float64 error bound of a score
    columns: Tensor  # (b, P) columns of the positives; what is not valid means nothing
    valid: Tensor  # (b, P)
    scores: Tensor  # (b, P) coarse, -inf where not valid
    total: Tensor  # (b,) R, the number of positives
    tiles: list[tuple[int, Tensor]]  # the scores of all columns where one tile holds them, else none


class Ranker:
    """Ranks queries among a gallery.

    Args:
        points: all items.
        labels: (N,) their classes.
        gallery: (G,) the rows that are searched.
    """

    def __init__(self, points: Points, labels: Tensor, gallery: Tensor) -> None:
        self.points = points
        self.labels = labels
        gallery = gallery[labels[gallery].argsort(stable=True)]
        self.columns = Columns(points, gallery)
        self.column_labels = labels[gallery]

    def rank(self, queries: Tensor, positives: Tensor) -> Ranks:
        """Rank queries (n,), rows in order of label, that have ``positives`` (n,) > 0 positives each."""
        step = self.columns.tile.queries
        parts = []
        start = 0
        while start < len(queries):
            most = int(positives[start : start + step].max())
            rows = queries[start : start + max(1, min(step, _BLOCK_VALUES // most))]
            parts.append(self._rank_block(rows))
            start += len(rows)
        if not parts:
            return Ranks(queries, queries.double(), queries.double())
        return Ranks(
            torch.cat([part.nearest for part in parts]),
            torch.cat([part.r_precision for part in parts]),
            torch.cat([part.average_precision for part in parts]),
        )

    def _rank_block(self, rows: Tensor) -> Ranks:
        block = self._block(rows)
        nearest, identity = self._nearest_positive(block)
        best = Best(int(block.total.max()) + _SPARE)
        before = self._scan(block, nearest, identity, best)
        nearer = self._negatives_before(block, best)
        order = torch.arange(1, nearer.shape[1] + 1, device=rows.device)
        ranks = nearer.sort(1).values + order
        hits = (ranks <= block.total[:, None]).double()
        average = fold_sum(hits * order / ranks) / block.total
        return Ranks(before + 1, fold_sum(hits) / block.total, average)

    def _block(self, rows: Tensor) -> _Block:
        labels = self.labels[rows]
        first = torch.searchsorted(self.column_labels, labels)
        last = torch.searchsorted(self.column_labels, labels, right=True)
        left = self.points.queries(rows)
        start, end = int(first[0]), int(last[-1])
        columns = first[:, None] + torch.arange(int((last - first).max()), device=rows.device)
        valid = columns < last[:, None]
        columns.clamp_(max=end - 1)
        valid &= self.columns.rows[columns] != rows[:, None]  # an item is no neighbour of itself
        tiles = [next(self.columns.tiles(left))] if self.columns.in_one_tile else []
        band = tiles[0][1][:, start:end] if tiles else self.columns.scores(left, start, end)
        scores = band.gather(1, columns - start).masked_fill_(~valid, -torch.inf)
        bound = self.points.error_bound(rows)
        return _Block(rows, left, first, last, bound, columns, valid, scores, valid.sum(1), tiles)

    def _distances(self, block: _Block, queries: Tensor, columns: Tensor) -> Tensor:
        """Exact squared distances (p,) from queries of the block to columns, both (p,)."""
        return self.points.squared_distances(block.rows[queries], self.columns.rows[columns])

    def _nearest_positive(self, block: _Block) -> tuple[Tensor, Tensor]:
        """(b,) exact squared distance of the nearest positive, and the point at which it lies."""
        reach = (block.scores.amax(1) - 2 * block.bound).float()
        queries, places = (block.scores >= reach[:, None]).nonzero(as_tuple=True)
        columns = block.columns[queries, places]
        distances = self._distances(block, queries, columns)
        nearest = torch.full_like(block.bound, torch.inf)
        nearest.scatter_reduce_(0, queries, distances, "amin")
        found = distances == nearest[queries]
        identity = torch.empty_like(block.rows)
        identity[queries[found]] = self.points.same[self.columns.rows[columns[found]]]
        return nearest, identity

    def _scan(self, block: _Block, nearest: Tensor, identity: Tensor, best: Best) -> Tensor:
        """Count the negatives (b,) as near as the nearest positive or nearer; collect the nearest ones."""
        score = self.points.scores(block.rows, nearest)
        low = (score - block.bound).float()[:, None]
        high = (score + block.bound).float()[:, None]
        count = torch.zeros_like(block.rows)
        masks: list[Tensor] = []
        for start, scores in block.tiles or self.columns.tiles(block.left):
            self._drop_own_class(block, start, scores)
            tile = Tile(start, scores, best.limit)
            if (tile.maxima >= low).sum() * _MUCH > tile.maxima.numel():
                certain, queries, columns = self._count_many(tile, low, high, identity, masks)
                count += certain
            else:
                queries, members, columns = tile.members_from(low)
                certain = members > high[queries]
                count.index_add_(0, queries, certain.sum(1))
                at, place = ((members >= low[queries]) & ~certain).nonzero(as_tuple=True)
                queries, columns = queries[at], columns[at, place]
            nearer = self._distances(block, queries, columns) <= nearest[queries]
            count += torch.bincount(queries[nearer], minlength=len(count))
            best.add(tile)
        return count

    def _count_many(
        self, tile: Tile, low: Tensor, high: Tensor, identity: Tensor, masks: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Count a tile where much is above ``low`` (b, 1), in ``masks``, memory that is kept between tiles.

        Returns:
            (b,) how many are above ``high`` or identical to the nearest positive; and the queries (p,) and
            columns (p,) of all others between the bounds.
        """
        if not masks or masks[0].shape != tile.scores.shape:
            # As numbers, not booleans: these are summed several times faster.
            masks[:] = [torch.empty_like(tile.scores), torch.empty_like(tile.scores)]
        certain = torch.gt(tile.scores, high, out=masks[0])
        count = certain.sum(1).long()
        unsure = torch.ge(tile.scores, low, out=masks[1]).sub_(certain)
        if unsure.sum() * _MUCH > unsure.numel():  # collapsed embeddings: too many to list
            same = self.points.same[self.columns.rows[tile.start : tile.start + unsure.shape[1]]]
            identical = same == identity[:, None]
            count += (unsure[:, : len(same)] * identical).sum(1).long()
            unsure[:, : len(same)].masked_fill_(identical, 0)
        queries, members, columns = Tile(tile.start, unsure, 1).members_from(low.new_ones(len(low), 1))
        at, place = members.nonzero(as_tuple=True)
        return count, queries[at], columns[at, place]

    def _drop_own_class(self, block: _Block, start: int, tile: Tensor) -> None:
        """Set the scores of each query's own class, itself included, to -inf."""
        begin = max(int(block.first[0]) - start, 0)
        end = min(int(block.last[-1]) - start, tile.shape[1])
        if begin < end:
            columns = torch.arange(start + begin, start + end, device=tile.device)
            own = (columns >= block.first[:, None]) & (columns < block.last[:, None])
            tile[:, begin:end].masked_fill_(own, -torch.inf)

    def _negatives_before(self, block: _Block, best: Best) -> Tensor:
        """(b, P) how many negatives are as near as each positive or nearer, at most R; a large number where
        there is no positive."""
        scores, columns = best.sorted()
        ascending = -scores
        margin = 2 * block.bound[:, None]
        total = block.total[:, None]
        certain = torch.searchsorted(ascending, (-block.scores - margin).float())
        possible = torch.searchsorted(ascending, (-block.scores + margin).float(), right=True)
        nearer = torch.minimum(certain, total)
        unsure = block.valid & (nearer < torch.minimum(possible, total))
        if unsure.any():
            self._settle(block, scores, columns, certain, possible, unsure, nearer)
        return nearer.masked_fill_(~block.valid, _NONE)

    def _settle(
        self,
        block: _Block,
        scores: Tensor,
        columns: Tensor,
        certain: Tensor,
        possible: Tensor,
        unsure: Tensor,
        nearer: Tensor,
    ) -> None:
        """Replace the counts in ``nearer`` that are ``unsure`` by those that exact distances give."""
        queries, places = unsure.nonzero(as_tuple=True)
        low, high = certain[queries, places], possible[queries, places]
        limits = self._distances(block, queries, block.columns[queries, places])
        # Of the list, only what lies between an unsure positive's two counts needs its exact distance.
        steps = torch.zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.int64, device=scores.device)
        steps.index_put_((queries, low), torch.ones_like(low), accumulate=True)
        steps.index_put_((queries, high), -torch.ones_like(high), accumulate=True)
        needed = (steps.cumsum(1)[:, :-1] > 0) & (scores > -torch.inf)
        distances = self.points.distances_of_scores(block.rows, scores)
        at, place = needed.nonzero(as_tuple=True)
        distances[at, place] = self._distances(block, at, columns[at, place])
        distances = distances.sort(1).values
        counts = torch.searchsorted(distances[queries], limits[:, None], right=True)[:, 0]
        total = block.total[queries]
        # A list that ends within the margin may have left out negatives that are as near.
        cut = (high == scores.shape[1]) & (counts < total) & (scores.shape[1] < len(self.columns))
        for query in queries[cut].unique().tolist():
            mine = cut & (queries == query)
            counts[mine] = self._count_in_full(block, query, limits[mine])
        nearer[queries, places] = torch.minimum(counts, total)

    def _count_in_full(self, block: _Block, query: int, limits: Tensor) -> Tensor:
        """How many negatives of one query are within each of ``limits`` (m,), by looking at all of them."""
        scores = self.columns.scores(block.left[query : query + 1], 0, len(self.columns))[0]
        scores[block.first[query] : block.last[query]] = -torch.inf
        row = block.rows[query : query + 1]
        low = self.points.scores(row, limits.max()) - block.bound[query]
        columns = (scores >= low.float()).nonzero()[:, 0]
        distances = self._distances(block, torch.full_like(columns, query), columns).sort().values
        return torch.searchsorted(distances, limits, right=True)
