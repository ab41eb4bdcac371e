"""The search itself: scores of a block of queries against all columns, tile by tile, and the best of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.metrics.points import Points

_FAR = -1e30  # the score of padding: lower than that of any item, and finite, so that products stay so
_ALIGN = 16  # tiles are multiples of this wide, so that columns fall into equal groups
_HELD = 256  # scores of a query that are kept before the best of them are picked


@dataclass(frozen=True)
class TileSize:
    """Queries and columns of a tile: what stays in the cache, or keeps a device busy."""

    queries: int
    columns: int

    @classmethod
    def of(cls, columns: int, device: torch.device) -> "TileSize":
        """The size for so many columns: all of them in one tile where they are few."""
        values = 2**22 if device.type == "cpu" else 2**26
        wide = 2**12 if device.type == "cpu" else 2**14
        width = max(1, columns if columns <= 2 * wide else wide)
        return cls(min(values // width, 2 * values // wide), width)


class Columns:
    """The items that are searched, in a fixed order.

    Args:
        points: all items.
        rows: (G,) the rows of ``points`` to search.
    """

    def __init__(self, points: Points, rows: Tensor) -> None:
        self.rows = rows
        padding = -len(rows) % _ALIGN
        self.tile = TileSize.of(len(rows) + padding, rows.device)
        self.matrix = points.coarse.new_zeros(len(rows) + padding, points.coarse.shape[1])
        torch.index_select(points.coarse, 0, rows, out=self.matrix[: len(rows)])
        self.matrix[len(rows) :, -1] = _FAR
        self._buffer = self.matrix.new_empty(0)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def in_one_tile(self) -> bool:
        """Whether ``tiles`` yields a single tile."""
        return len(self.matrix) <= self.tile.columns

    def scores(self, queries: Tensor, start: int, end: int) -> Tensor:
        """(n, end - start) scores of ``queries`` (n, D + 1) for these columns, in new memory."""
        return queries @ self.matrix[start:end].T

    def tiles(self, queries: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (first column, scores (n, w)) from left to right; each tile reuses the memory of the last."""
        size = len(queries) * self.tile.columns
        if len(self._buffer) < size:
            self._buffer = self.matrix.new_empty(size)
        for start in range(0, len(self.matrix), self.tile.columns):
            block = self.matrix[start : start + self.tile.columns]
            tile = self._buffer[: len(queries) * len(block)].view(len(queries), len(block))
            yield start, torch.mm(queries, block.T, out=tile)


class Tile:
    """Scores of n queries for w neighbouring columns, and the maxima of groups of them.

    Reading the scores once for the maxima tells where the few that matter are, several times faster than
    ``topk`` or ``nonzero`` of all scores.

    Args:
        start: the first column.
        scores: (n, w), w a multiple of 16; kept, not copied.
        k: how many of the largest scores of a query will be asked for.
    """

    def __init__(self, start: int, scores: Tensor, k: int) -> None:
        count, width = scores.shape
        group = min((4, 8, _ALIGN), key=lambda size: width / size + k * size)  # the fewest values for ``topk``
        self.start = start
        self.scores = scores
        self.grouped = scores.view(count, group, width // group)
        self.maxima = self.grouped.amax(1)
        self.k = k

    def largest(self) -> tuple[Tensor, Tensor]:
        """The k largest scores of each query (n, min(k, w)) and their columns, in no particular order.

        They lie in the k groups with the largest maxima.
        """
        count, group, stride = self.grouped.shape
        if 2 * self.k > stride:
            scores, columns = self.scores.topk(min(self.k, group * stride), sorted=False)
            return scores, columns + self.start
        groups = self.maxima.topk(self.k, sorted=False).indices  # (n, k)
        members = self.grouped.gather(2, groups[:, None].expand(-1, group, -1)).view(count, -1)
        scores, picked = members.topk(self.k, sorted=False)
        columns = groups.gather(1, picked % self.k) + picked.div(self.k, rounding_mode="floor") * stride
        return scores, columns + self.start

    def members_from(self, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All groups that hold a score of at least ``low`` (n, 1) of their query.

        Returns:
            (m,) their queries, (m, g) their scores, and (m, g) the columns.
        """
        queries, groups = (self.maxima >= low).nonzero(as_tuple=True)
        _, group, stride = self.grouped.shape
        columns = self.start + groups[:, None] + stride * torch.arange(group, device=groups.device)
        return queries, self.grouped[queries, :, groups], columns


class Best:
    """The ``limit`` largest scores of each query over the tiles seen so far."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._scores: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._held = 0

    def add(self, tile: Tile) -> None:
        """Take in the largest scores of a tile."""
        scores, columns = tile.largest()
        self._scores.append(scores)
        self._columns.append(columns)
        self._held += scores.shape[1]
        if self._held > max(4 * self.limit, _HELD):
            scores, columns = self.sorted()
            self._scores, self._columns, self._held = [scores], [columns], scores.shape[1]

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Scores (n, k), largest first, and their columns (n, k); k is ``limit`` or all columns seen."""
        scores, picked = torch.cat(self._scores, 1).topk(min(self.limit, self._held))
        return scores, torch.cat(self._columns, 1).gather(1, picked)
