"""The search itself: scores of a block of queries against all columns, tile by tile, and the best of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lifted_lightning.metrics.points import Points

_FAR = -1e30  # the score of padding: lower than that of any item, and finite, so that products stay so
_ALIGN = 16  # tiles are multiples of this wide, so that columns fall into equal groups


@dataclass(frozen=True)
class TileSize:
    """Queries and columns of a tile: what stays in the cache, or keeps a device busy."""

    queries: int
    columns: int

    @classmethod
    def of(cls, device: torch.device) -> "TileSize":
        return cls(1024, 4096) if device.type == "cpu" else cls(4096, 16384)


class Columns:
    """The items that are searched, in a fixed order.

    Args:
        points: all items.
        rows: (G,) the rows of ``points`` to search.
    """

    def __init__(self, points: Points, rows: Tensor) -> None:
        self.rows = rows
        self.tile = TileSize.of(rows.device)
        padding = -len(rows) % _ALIGN
        self.matrix = points.coarse.new_zeros(len(rows) + padding, points.coarse.shape[1])
        torch.index_select(points.coarse, 0, rows, out=self.matrix[: len(rows)])
        self.matrix[len(rows) :, -1] = _FAR
        self._buffer = self.matrix.new_empty(0)

    def __len__(self) -> int:
        return len(self.rows)

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
    group = _ALIGN if k * _ALIGN * 4 <= width else 4
    if k * group * 2 > width or width % group:
        values, columns = tile.topk(min(k, width), sorted=False)
        return values, columns
    stride = width // group
    grouped = tile.view(count, group, stride)
    groups = grouped.amax(1).topk(k, sorted=False).indices  # (n, k)
    members = grouped.gather(2, groups[:, None].expand(-1, group, -1)).view(count, group * k)
    values, picked = members.topk(k, sorted=False)
    return values, groups.gather(1, picked % k) + picked.div(k, rounding_mode="floor") * stride


class Best:
    """The k largest scores of each query over the tiles seen so far.

    Attributes:
        scores: (n, k), and ``columns`` (n, k); k grows to ``limit`` with the columns seen.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.scores: Tensor | None = None
        self.columns: Tensor | None = None

    def add(self, start: int, tile: Tensor) -> None:
        """Take in a tile (n, w) whose first column is ``start``."""
        scores, columns = largest(tile, self.limit)
        columns = columns + start
        if self.scores is not None and self.columns is not None:
            scores = torch.cat([self.scores, scores], 1)
            columns = torch.cat([self.columns, columns], 1)
            if scores.shape[1] > self.limit:
                scores, picked = scores.topk(self.limit, sorted=False)
                columns = columns.gather(1, picked)
        self.scores, self.columns = scores, columns

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Scores (n, k), largest first, and their columns (n, k)."""
        assert self.scores is not None
        assert self.columns is not None
        scores, order = self.scores.sort(1, descending=True)
        return scores, self.columns.gather(1, order)
