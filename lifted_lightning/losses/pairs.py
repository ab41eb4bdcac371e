"""What the losses share: the pairs of a batch by row blocks, their distances, and the way back to a gradient.

A loss over all pairs of B embeddings needs B×B distances. It takes them a block of rows at a time, each pair
once, and adds up its value and, in the same forward, its gradient with respect to the embeddings, so that
nothing of size B×B has to wait for backward: backward multiplies the (B, D) gradient by the incoming scalar.

Three things make the result right where a plain Gram matrix is not:

- rows are centred on their mean, and distances and gradient are taken in float64 whatever the input. A matrix
  product then costs twice that of float32 on processors and datacentre GPUs, and 32 times or more on other
  GPUs; in exchange a pair, positive or negative, may be as close as 1e-5 of its norm;
- what is left below rounding counts as distance 0 exactly, so identical rows have distance 0;
- the derivative of a distance that is 0 is 0.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from lifted_lightning.errors import UserError

BLOCK_ENTRIES_CPU = 2**19  # 4 MB of float64: a block's passes stay in the processor's cache
BLOCK_ENTRIES_GPU = 2**26  # 512 MB: few kernel launches
BLOCK_ROWS = 64  # at least: a matrix product wants as many
WHOLE_ROWS = 4096  # up to this batch size a loss may keep a matrix of all pairs for the length of its forward
ROUNDING = 64  # a squared distance below this many roundings of the squared norm is 0

Average = Literal["active", "all"]  # what a mean counts: terms whose hinge is above 0, or all of them


class Block(NamedTuple):
    """Some rows of a batch sorted by label, and what belongs to them."""

    rows: slice
    columns: slice  # from the first of the rows to the end: with these each pair of the batch is met once
    near: slice  # where all rows of the classes of `rows` lie
    beside: slice  # the near ones among `columns`


class Terms(NamedTuple):
    """A loss before it is attached to the graph."""

    value: Tensor  # scalar, float64
    gradient: Tensor | None  # (B, D), rows as in PairBlocks, float64
    active_share: Tensor  # scalar: the share of the terms whose hinge is above 0


class PairBlocks:
    """A batch prepared for work on all its pairs: sorted by label, centred, float64, cut into row blocks.

    Sorting puts a class's rows side by side, so that a block's positives lie in the few columns of
    `Block.near`. Those bounds, and the size of the largest class, are read from the labels on the CPU and for
    large batches; on an accelerator, where reading would wait for the device, and under `torch.compile`,
    where it would break the graph, `near` is all columns and the shapes depend on B and D alone.

    Attributes:
        x: centred rows in the order of their labels, (B, D) float64 (float32 on mps, which has no float64).
        positives: for each row, how many others share its class, (B,).
        negatives: for each row, how many are of another class, (B,).
        widest: at least the size of the largest class.
        blocks: the row blocks.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor) -> None:
        size, device = len(embeddings), embeddings.device
        wide = wide_dtype(device)
        self._labels, self._order = labels.sort(stable=True)
        x = embeddings.detach()[self._order].to(wide)
        self.x = x.sub_(x.mean(0))  # indexing has made a copy
        self._norms = torch.linalg.vector_norm(self.x, dim=1).square()
        self._rounding = self._norms[:, None] * (ROUNDING * torch.finfo(wide).eps)
        self._index = torch.arange(size, device=device)
        first = torch.searchsorted(self._labels, self._labels)
        last = torch.searchsorted(self._labels, self._labels, right=True)
        self.positives = (last - first - 1).to(wide)
        self.negatives = (size - last + first).to(wide)
        rows = _cut(size, device.type == "cpu")
        near, self.widest = [slice(0, size)] * len(rows), size
        if size and not torch.compiler.is_compiling() and (device.type == "cpu" or size > WHOLE_ROWS):
            starts, stops = first.tolist(), last.tolist()
            near = [slice(starts[r.start], stops[r.stop - 1]) for r in rows]
            self.widest = int((last - first).max())
        self.blocks = [
            Block(r, slice(r.start, size), n, slice(r.start, n.stop)) for r, n in zip(rows, near, strict=True)
        ]

    def squared(self, rows: slice, columns: slice = slice(None)) -> Tensor:
        """Squared distances of some rows to some columns, (rows, columns)."""
        squared = self._norms[rows, None] + self._norms[columns]
        squared.addmm_(self.x[rows], self.x[columns].T, alpha=-2)
        return squared.masked_fill_(squared < self._rounding[rows], 0)

    def distances(self, rows: slice, columns: slice = slice(None)) -> Tensor:
        """Distances of some rows to some columns, (rows, columns)."""
        return self.squared(rows, columns).sqrt_()

    def same(self, rows: slice, columns: slice) -> Tensor:
        """True where a row and a column are of one class, the row itself included; (rows, columns)."""
        return self._labels[rows, None] == self._labels[columns]

    def positive(self, block: Block) -> Tensor:
        """True where a row and a near column are a positive pair, (rows, near): pairs from both ends."""
        return self.same(block.rows, block.near) & (self._index[block.rows, None] != self._index[block.near])

    def split(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """The pairs of a block, positive and negative apart; over all blocks each pair is met once.

        Returns:
            Where a row and a column beside it are a positive pair, (rows, beside); the distances there,
            (rows, beside); the distances of negative pairs, infinity elsewhere, (rows, columns).
        """
        same = self.same(block.rows, block.beside)
        above = self._index[block.rows, None] < self._index[block.beside]
        far = self.distances(block.rows, block.columns)
        beside = far[:, : same.shape[1]]
        near = beside.clone()
        beside.masked_fill_(same | ~above, torch.inf)
        return same & above, near, far

    def restore(self, gradient: Tensor) -> Tensor:
        """Rows (B, D) in the order of the batch."""
        return torch.empty_like(gradient).index_copy_(0, self._order, gradient)


class Laplacian:
    """The gradient of a sum over pairs, gathered from weights w_ij: Σ_j (w_ij + w_ji)(x_i − x_j).

    With w_ij the derivative by a distance divided by that distance this is the gradient by x_i.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._degree = x.new_zeros(len(x), 1)
        self._sum = torch.zeros_like(x)

    def add_(self, weights: Tensor, rows: slice, columns: slice, scale: float = 1) -> None:
        """Add the pairs of some rows and columns with their weights (rows, columns), times a scale."""
        if rows == columns:  # both directions in one product
            weights = weights + weights.T
            self._degree[rows] += scale * weights.sum(1, keepdim=True)
            self._sum[rows].addmm_(weights, self._x[columns], alpha=scale)
            return
        self._degree[rows] += scale * weights.sum(1, keepdim=True)
        self._degree[columns] += scale * weights.sum(0)[:, None]
        self._sum[rows].addmm_(weights, self._x[columns], alpha=scale)
        self._sum[columns].addmm_(weights.T, self._x[rows], alpha=scale)

    def add_edges_(self, weights: Tensor, columns: Tensor) -> None:
        """Add one pair for each row: the row and columns[row], with weights (B,)."""
        weights = weights[:, None]
        self._degree.add_(weights).index_add_(0, columns, weights)
        self._sum.add_(weights * self._x[columns]).index_add_(0, columns, weights * self._x)

    def gradient(self) -> Tensor:
        """The gradient by x, (B, D)."""
        return self._sum.neg_().addcmul_(self._degree, self._x)


def wide_dtype(device: torch.device) -> torch.dtype:
    """The type that distances are taken in."""
    return torch.float32 if device.type == "mps" else torch.float64


def _cut(size: int, cpu: bool) -> list[slice]:
    """Row blocks of about equal numbers of entries, where a row goes from the diagonal to the last column."""
    entries = BLOCK_ENTRIES_CPU if cpu else BLOCK_ENTRIES_GPU
    # With fewer blocks too much would be computed below the diagonal; on a GPU launches cost more than that.
    most = max(BLOCK_ROWS, size // 8) if cpu else size
    rows: list[slice] = []
    start = 0
    while start < size:
        stop = min(start + min(max(BLOCK_ROWS, entries // (size - start)), most), size)
        rows.append(slice(start, stop))
        start = stop
    return rows


def over_distance_(weights: Tensor, distances: Tensor) -> Tensor:
    """Divide by the distances in place, 0 where the distance is 0: the length's subgradient there."""
    return weights.div_(distances).masked_fill_(distances == 0, 0)


def checked_margin(margin: float) -> float:
    """A loss's margin, as it is given.

    Raises:
        UserError: if it is negative or not finite.
    """
    if not 0 <= margin < math.inf:
        raise UserError(f"margin={margin}: give a finite distance of at least 0")
    return margin


def check_batch(embeddings: Tensor, labels: Tensor) -> None:
    """Raise ValueError or TypeError unless embeddings are (B, D) float and labels (B,) integer."""
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings must have shape (B, D), not {tuple(embeddings.shape)}")
    if not embeddings.is_floating_point():
        raise TypeError(f"embeddings must be floating point, not {embeddings.dtype}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels must have shape ({len(embeddings)},), not {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must be integers, not {labels.dtype}")
    if labels.device != embeddings.device:
        raise ValueError(f"labels are on {labels.device} but embeddings on {embeddings.device}")


def pair_loss(embeddings: Tensor, labels: Tensor, terms: Callable[[PairBlocks, bool], Terms]) -> Tensor:
    """The scalar that `terms` gives for a batch, connected to the graph of the embeddings.

    Args:
        embeddings: (B, D), any float type.
        labels: (B,), any integer type.
        terms: value and, if its second argument is true, gradient of the loss.

    Returns:
        Scalar, float32 at least. Its gradient has the type of the embeddings. A non-finite embedding gives a
        non-finite value. Differentiable once: a second derivative raises.
    """
    check_batch(embeddings, labels)
    wanted = torch.is_grad_enabled() and embeddings.requires_grad
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        pairs = PairBlocks(embeddings, labels)
        result = terms(pairs, wanted)
        narrow = torch.promote_types(embeddings.dtype, torch.float32)
        value = (result.value + 0 * pairs.x.sum()).to(narrow)  # the zero carries a NaN no term has seen
        if result.gradient is None:
            return value
        gradient = pairs.restore(result.gradient.to(narrow))
    return _Attach.apply(embeddings, value, gradient)


def active_share(embeddings: Tensor, labels: Tensor, terms: Callable[[PairBlocks, bool], Terms]) -> Tensor:
    """The share of the terms whose hinge is above 0, a float32 scalar without gradient; 0 if there are none."""
    check_batch(embeddings, labels)
    with torch.no_grad(), torch.autocast(embeddings.device.type, enabled=False):
        return terms(PairBlocks(embeddings, labels), False).active_share.float()


class _Attach(torch.autograd.Function):
    """A value with a gradient already known."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = embeddings.dtype  # type: ignore[attr-defined]
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return (outer * gradient).to(ctx.dtype), None, None
