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


def largest(tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row of (n, w) and their columns, in no particular order.

    They lie in the k groups of columns with the largest maxima; finding those first reads the tile once, many
    times faster than ``topk`` of it.
    """
    count, width = tile.shape
    group = min((4, 8, _ALIGN), key=lambda size: width / size + k * size)  # the fewest values for ``topk``
    if k * group * 2 > width:
        values, columns = tile.topk(min(k, width), sorted=False)
        return values, columns
    stride = width // group
    grouped = tile.view(count, group, stride)
    groups = grouped.amax(1).topk(k, sorted=False).indices  # (n, k)
    members = grouped.gather(2, groups[:, None].expand(-1, group, -1)).view(count, group * k)
    values, picked = members.topk(k, sorted=False)
    return values, groups.gather(1, picked % k) + picked.div(k, rounding_mode="floor") * stride


def where_nonzero(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of what is not zero in (n, w) >= 0, w a multiple of the alignment, where little is."""
    count, width = mask.shape
    grouped = mask.view(count, _ALIGN, width // _ALIGN)
    rows, groups = grouped.amax(1).nonzero(as_tuple=True)
    which, member = grouped[rows, :, groups].nonzero(as_tuple=True)
    return rows[which], groups[which] + member * (width // _ALIGN)


class Best:
    """The ``limit`` largest scores of each query over the tiles seen so far."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._scores: list[Tensor] = []
        self._columns: list[Tensor] = []
        self._held = 0

    def add(self, start: int, tile: Tensor) -> None:
        """Take in a tile (n, w) whose first column is ``start``."""
        scores, columns = largest(tile, self.limit)
        self._scores.append(scores)
        self._columns.append(columns + start)
        self._held += scores.shape[1]
        if self._held > max(4 * self.limit, _HELD):
            scores, columns = self.sorted()
            self._scores, self._columns, self._held = [scores], [columns], scores.shape[1]

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Scores (n, k), largest first, and their columns (n, k); k is ``limit`` or all columns seen."""
        scores, picked = torch.cat(self._scores, 1).topk(min(self.limit, self._held))
        return scores, torch.cat(self._columns, 1).gather(1, picked)
