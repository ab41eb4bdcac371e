"""What the losses share: the distances of a batch's pairs, by blocks of rows, and the way back to a gradient.

A loss over all pairs of B embeddings needs B×B distances. It takes them a block of rows at a time, each row
against the whole batch (up to a thousand rows or more, one block is the batch), and adds up its value and, in
the same forward, its gradient with respect to the embeddings: one matrix product for the distances, one for the
gradient. Nothing of size B×B has to wait for backward, which multiplies the (B, D) gradient by a scalar.

A product gives the squared distance of two rows as |x|² + |y|² − 2xy, which is mostly rounding where the two are
close. Three things make a pair right that is 1e-5 of its norm apart, or less, and identical rows have distance 0:

- rows are centred on their mean;
- on the CPU products are float32, and pairs closer than `CLOSE` are left out of them: their distances and
  gradients come from the differences of the rows. Where such pairs are many, because the batch has collapsed
  into a few points, the block's products are float64;
- on an accelerator, where to count them would wait for the device, and under `torch.compile`, where it would
  break the graph, products are float64 always: at the speed of float32 on datacentre GPUs, 32 times slower or
  more on others. What is left below their rounding is distance 0.

The derivative of a distance that is 0 is 0.

Against a memory of earlier embeddings (:class:`References`) the rows of the batch are the same, and the columns are
the memory's: N of them in place of B, and only the rows have a gradient.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.compiler import is_compiling

from lifted_lightning.errors import UserError

BLOCK_ENTRIES_CPU = 2**20  # 4 MB of float32
BLOCK_ENTRIES_GPU = 2**25  # 256 MB of float64: few kernel launches
BLOCK_ROWS = 64  # at least: a matrix product wants as many
WHOLE_ROWS = 4096  # up to this batch size a loss may keep the distances of all pairs for the length of its forward
CLOSE = 0.01  # of a row's squared norm: float32 products give larger squared distances to about 1e-5
FUSED = 2**20  # multiplications: a CPU's compiled code has float64 products, and is slower beyond
ROUNDING = 64  # a squared distance below this many float64 roundings of the squared norm is 0

Average = Literal["active", "all"]  # what a mean counts: terms whose hinge is above 0, or all of them


class References(NamedTuple):
    """What the rows of a batch are compared with in place of each other: constants, without a gradient."""

    embeddings: Tensor  # (N, D)
    labels: Tensor  # (N,)
    own: Tensor  # (B,) int64: where each row of the batch has its own copy, which is no pair with it


class Block(NamedTuple):
    """Some rows of a batch against all of it, or against all references: N columns."""

    rows: slice
    distances: Tensor  # (R, N), float32 at least; infinity between a row and itself
    positive: Tensor  # bool (R, N): whether a row and a column are a positive pair
    close: tuple[Tensor, Tensor] | None  # row (of the block) and column of the pairs left out of products
    wide: bool  # whether products are float64

    def over_distances_(self, weights: Tensor) -> Tensor:
        """Divide (R, N) by the distances in place; 0 where the distance is 0, the length's subgradient there."""
        weights.div_(self.distances)
        return weights.masked_fill_(self.distances == 0, 0) if self.wide or self.close else weights


class Terms(NamedTuple):
    """A loss before it is attached to the graph."""

    value: Tensor  # scalar
    gradient: Tensor | None  # (B, D)
    active_share: Tensor | None  # scalar: the share of the terms whose hinge is above 0; where no gradient is wanted


def few_bits() -> bool:
    """Whether products of float32 matrices on a CPU may be of numbers with fewer bits (bfloat16, TF32)."""
    if hasattr(torch.backends.mkldnn, "matmul"):
        return torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")
    return torch.get_float32_matmul_precision() != "highest"  # before torch 2.9


class PairBlocks:
    """A batch prepared for work on all its pairs, row block by row block.

    Args:
        embeddings: (B, D), any float type.
        labels: (B,), any integer type.
        references: what the rows are compared with; each other if None.

    Attributes:
        rows: the embeddings, float32 at least.
        columns: what they are compared with, (N, D): the references, or the rows themselves.
        apart: whether these are two things.
        ends: how many of a pair's two ends are moved by it; a reference is not.
        widest: the widest type of the device.
        keeps: whether all distances may be kept for the length of a forward.
        readable: whether a number may be read from the device: not where a small batch would wait for it, nor under
            `torch.compile`. Shapes then depend on B and D alone.
    """

    def __init__(self, embeddings: Tensor, labels: Tensor, references: References | None = None) -> None:
        self.widest = wide_dtype(embeddings.device)
        self.rows = self.columns = embeddings.to(narrow_dtype(embeddings))
        self._labels = self._column_labels = labels
        self._own: Tensor | None = None
        if references is not None:
            self.columns = references.embeddings.to(self.rows.dtype)
            self._column_labels, self._own = references.labels, references.own
        self.apart = references is not None
        self.ends = 1 if self.apart else 2
        on_cpu = embeddings.device.type == "cpu"
        eager = on_cpu and not is_compiling()
        self.readable = eager or (not is_compiling() and len(embeddings) > WHOLE_ROWS)
        self._wide = not eager or self.rows.dtype == torch.float64 or few_bits()
        self._centred: dict[bool, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
        self._kept: list[Block] = []
        size = len(embeddings)
        self.keeps = size * len(self.columns) <= WHOLE_ROWS**2
        height = max(BLOCK_ROWS, (BLOCK_ENTRIES_CPU if on_cpu else BLOCK_ENTRIES_GPU) // max(len(self.columns), 1))
        self._slices = [slice(start, min(start + height, size)) for start in range(0, size, height)]

    def join(self) -> None:
        """From now on take all rows as one block: for what is added up along columns."""
        self._slices = [slice(0, len(self.rows))]

    def blocks(self, keep: bool = False) -> Iterator[Block]:
        """The blocks; with `keep`, and where it `keeps`, the next sweep meets the same, and need not compute them."""
        if self._kept:
            yield from self._kept
            return
        for rows in self._slices:
            block = self._block(rows)
            if keep and self.keeps:
                self._kept.append(block)
            yield block

    def centred(self, wide: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rows less their mean (B, D), and their squared norms (B,); columns less that mean (N, D), and theirs (N,)."""
        if wide not in self._centred:
            x = self.rows.to(self.widest) if wide else self.rows
            centre = x.mean(0)
            x = x - centre
            both = x, x.square().sum(1)
            if self.apart:
                y = self.columns.to(self.widest) - centre if wide else self.columns - centre
                self._centred[wide] = *both, y, torch.linalg.vector_norm(y, dim=1).square_()  # without a copy of y
            else:
                self._centred[wide] = *both, *both
        return self._centred[wide]

    def widen(self) -> None:
        """From now on take distances and gradients in float64: for what tells apart distances that are nearly equal."""
        self.rows, self._wide = self.rows.to(self.widest), True
        self.columns = self.columns.to(self.widest) if self.apart else self.rows

    def counts(self) -> tuple[Tensor, Tensor]:
        """The numbers of positive and of negative pairs, each pair of the batch counted from both its ends."""
        size = len(self.rows)
        positives = reduce(added, (torch.count_nonzero(self._same(rows)) for rows in self._slices)) - size
        return positives, size * (len(self.columns) - 1) - positives

    def _same(self, rows: slice) -> Tensor:
        """Where a row and a column are of one class, the row itself included: (R, N)."""
        return take(self._labels, rows)[:, None] == self._column_labels

    def _fill_own_(self, values: Tensor, rows: slice, value: float) -> None:
        """Set what a row has with itself, one entry of each row of (R, N)."""
        if self._own is None:
            take(values, rows, 1).fill_diagonal_(value)
        else:
            values.scatter_(1, take(self._own, rows)[:, None], value)

    def _block(self, rows: slice) -> Block:
        positive = self._same(rows)
        self._fill_own_(positive, rows, False)
        squared, close = (None, None) if self._wide else self._repaired(rows)
        wide = squared is None
        if squared is None:
            squared, norms = self._squared(rows, True)
            squared.masked_fill_(squared < norms * (ROUNDING * torch.finfo(norms.dtype).eps), 0)
        return Block(rows, squared.sqrt_().to(self.rows.dtype), positive, close, wide)

    def _squared(self, rows: slice, wide: bool) -> tuple[Tensor, Tensor]:
        """Squared distances (R, N) by a product, infinity between a row and itself, and the rows' norms (R, 1)."""
        x, norms, y, others = self.centred(wide)
        here = take(norms, rows)[:, None]
        squared = (here + others).addmm_(take(x, rows), y.T, alpha=-2)
        self._fill_own_(squared, rows, torch.inf)
        return squared, here

    def _repaired(self, rows: slice) -> tuple[Tensor | None, tuple[Tensor, Tensor] | None]:
        """Squared distances by float32 products, with the close pairs mended; None if these are too many."""
        squared, norms = self._squared(rows, False)
        apart = squared > norms * CLOSE  # not so where it is NaN: float32 overflows
        count = apart.numel() - int(torch.count_nonzero(apart))
        if not count:
            return squared, None
        if count > 256 + apart.numel() // 64:
            return None, None
        here, there = apart.logical_not_().nonzero(as_tuple=True)
        close = here, there
        squared[close] = self.differences(rows, close).square_().sum(1)
        return squared, close

    def differences(self, rows: slice, close: tuple[Tensor, Tensor]) -> Tensor:
        """One row less the other, (n, D), of n pairs of a row in the block and a column."""
        return take(self.rows, rows).index_select(0, close[0]).sub_(self.columns.index_select(0, close[1]))


class Laplacian:
    """The gradient of a sum over pairs, gathered from weights w_ij: Σ_j (w_ij + w_ji)(x_i − x_j).

    With w_ij the derivative by a distance divided by that distance this is the gradient by x_i. Against references it
    is Σ_j w_ij (x_i − r_j).
    """

    def __init__(self, pairs: PairBlocks) -> None:
        self._pairs = pairs
        self._sum: Tensor | None = None

    def add_(self, block: Block, weights: Tensor, mutual: bool, scale: float = 1) -> None:
        """Add a block's pairs.

        Args:
            block: whose pairs.
            weights: (R, N), used up: w_ij; if `mutual`, w_ij + w_ji.
            mutual: whether a pair's whole weight is met from both its ends, so that a block moves its rows alone.
            scale: by which the weights are multiplied.
        """
        mutual = mutual or self._pairs.apart
        if not mutual and len(weights) == len(self._pairs.rows):
            weights, mutual = weights.T.contiguous().add_(weights), True
        x, _, y, _ = self._pairs.centred(block.wide)
        weights, rows = weights.to(x.dtype), take(x, block.rows)
        apart = None
        if block.close:
            apart = weights[block.close][:, None] * self._pairs.differences(block.rows, block.close)
            weights[block.close] = 0
        part = torch.addmm(rows * weights.sum(1, keepdim=True), weights, y, beta=scale, alpha=-scale)
        if block.close and apart is not None:
            part.index_add_(0, block.close[0], apart, alpha=scale)
        self._sum = put(self._sum, part, block.rows, len(x))
        if not mutual:
            part = torch.addmm(x * weights.sum(0)[:, None], weights.T, rows, beta=scale, alpha=-scale)
            if block.close and apart is not None:
                part.index_add_(0, block.close[1], apart, alpha=-scale)
            self._sum = put(self._sum, part, slice(0, len(x)), len(x))

    def add_edges_(self, block: Block, weights: Tensor, columns: Tensor) -> None:
        """Add w_ij of the block's rows and k columns for each: both (R, k)."""
        rows = self._pairs.rows
        parts = weights[..., None] * (take(rows, block.rows)[:, None] - self._pairs.columns[columns])
        self._sum = put(self._sum, parts.sum(1), block.rows, len(rows))
        if not self._pairs.apart:
            self.gradient().index_add_(0, columns.flatten(), parts.flatten(0, 1), alpha=-1)

    def gradient(self) -> Tensor:
        """What has been added up, (B, D): the gradient by the embeddings."""
        if self._sum is None:
            self._sum = torch.zeros_like(self._pairs.rows)
        return self._sum


def take(values: Tensor, part: slice, dim: int = 0) -> Tensor:
    """Part of a tensor, without an operation where that is the whole."""
    size = part.stop - part.start
    return values if size == values.shape[dim] else values.narrow(dim, part.start, size)


def put(whole: Tensor | None, part: Tensor, rows: slice, size: int) -> Tensor:
    """Add a block's part to its rows of a whole (B, …) that begins as None; a part of all rows is the whole then.

    In place, as with `added`: small tensors that outlive a block would break up the memory that its large ones leave.
    """
    if whole is None:
        if len(part) == size:
            return part
        whole = part.new_zeros(size, *part.shape[1:])
    take(whole, rows).add_(part)
    return whole


def added(total: Tensor | None, part: Tensor) -> Tensor:
    """A sum that begins as None, with one more part."""
    return part if total is None else total.add_(part)


def narrow_dtype(embeddings: Tensor) -> torch.dtype:
    """The type of embeddings, float32 at least."""
    return torch.float64 if embeddings.dtype == torch.float64 else torch.float32


def wide_dtype(device: torch.device) -> torch.dtype:
    """The widest type of a device."""
    return torch.float32 if device.type == "mps" else torch.float64


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


class PairLoss(nn.Module):
    """A loss over all pairs of a batch; a subclass has its terms."""

    def _terms(self, pairs: PairBlocks, with_gradient: bool) -> Terms:
        """Value and, if asked for, gradient of the loss; of two rows or more, or of one row and references."""
        raise NotImplementedError

    def forward(self, embeddings: Tensor, labels: Tensor, references: References | None = None) -> Tensor:
        """The loss, connected to the graph of the embeddings.

        Args:
            embeddings: (B, D), any float type.
            labels: (B,), any integer type.
            references: what the rows are compared with, as constants; each other if None.

        Returns:
            Scalar, float32 at least. Its gradient has the type of the embeddings. A non-finite embedding gives a
            non-finite value. Differentiable once: a second derivative raises.
        """
        check_batch(embeddings, labels)
        if references is not None:
            check_batch(references.embeddings, references.labels)
        columns = len(embeddings if references is None else references.embeddings)
        if is_compiling() and embeddings.device.type == "cpu" and embeddings.numel() * columns > FUSED:
            return _uncompiled(self, embeddings, labels, references)
        wanted = torch.is_grad_enabled() and embeddings.requires_grad
        with torch.no_grad(), _no_autocast(embeddings.device.type):
            pairs = PairBlocks(embeddings, labels, references)
            if len(embeddings) < pairs.ends:
                result = Terms(pairs.rows.new_zeros(()), torch.zeros_like(pairs.rows) if wanted else None, None)
            else:
                result = self._terms(pairs, wanted)
            # An embedding that is not finite makes the value so, although no term may have seen it.
            parts, narrow = (result.value, pairs.rows.sum()), narrow_dtype(embeddings)
            if result.gradient is None:
                return torch.add(*parts, alpha=0).to(narrow)
            gradient = result.gradient.to(narrow)
        return _Attach.apply(embeddings, *parts, gradient)

    def diagnostics(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`active_share`: the share of the terms (kept triplets, positive pairs) whose hinge is above 0; float32."""
        check_batch(embeddings, labels)
        with torch.no_grad(), _no_autocast(embeddings.device.type):
            share = self._terms(PairBlocks(embeddings, labels), False).active_share if len(embeddings) > 1 else None
            zero = embeddings.new_zeros((), dtype=torch.float32)
            return {"active_share": zero if share is None else share.float()}


@torch.compiler.disable
def _uncompiled(loss: PairLoss, embeddings: Tensor, labels: Tensor, references: References | None) -> Tensor:
    """The loss, which breaks the graph: float64 products would cost more than compiled code saves."""
    return PairLoss.forward(loss, embeddings, labels, references)


def _no_autocast(device: str) -> AbstractContextManager[None]:
    """Products in the type of their factors."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _Attach(torch.autograd.Function):
    """A value with a gradient already known."""

    @staticmethod
    def forward(ctx: FunctionCtx, embeddings: Tensor, value: Tensor, witness: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.dtype = embeddings.dtype  # type: ignore[attr-defined]
        return torch.add(value, witness, alpha=0).to(gradient.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, outer: Tensor) -> tuple[Tensor, None, None, None]:  # type: ignore[no-untyped-def]
        (gradient,) = ctx.saved_tensors
        return (outer * gradient).to(ctx.dtype), None, None, None
