"""The few helpers that know about ranks. Without a process group there is one rank, and each is a no-op."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx


def _initialised() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if _initialised() else 0


def world_size() -> int:
    """The number of ranks, 1 without a process group."""
    return dist.get_world_size() if _initialised() else 1


class _Gather(torch.autograd.Function):
    """All ranks' rows in rank order; the gradient is this rank's slice, times the number of ranks."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor) -> Tensor:
        pieces = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
        dist.all_gather(pieces, rows.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:  # type: ignore[override]
        # Every rank computes the same loss of the same rows, so its own slice is already the whole gradient
        # of its rows. DDP then averages parameter gradients over ranks where a sum is due: hence the factor.
        return gradient.chunk(world_size())[rank()] * world_size()


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Concatenate every rank's rows, letting the gradient through.

    A loss of the gathered rows, computed alike on every rank, gives under DDP's averaging the gradient that
    one process with all rows would have. So a loss must not draw random numbers that differ between ranks.

    Args:
        rows: (b, ...) tensor, of the same shape on every rank.

    Returns:
        (W * b, ...) tensor, rank r's rows at r * b; ``rows`` itself where there is one rank.
    """
    if world_size() == 1:
        return rows
    return _Gather.apply(rows)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate every rank's rows in rank order; ranks may hold different numbers of rows. No gradient.

    Args:
        rows: (n_r, ...) tensor; all but the first dimension alike on every rank.

    Returns:
        (n_0 + ... + n_{W-1}, ...) tensor, the same on every rank.
    """
    rows = rows.detach()
    if world_size() == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    sizes = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(sizes, own)
    counts = [int(size) for size in sizes]
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    pieces = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(pieces, padded)
    return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])


def sum_over_ranks(values: Tensor) -> Tensor:
    """The element-wise sum of every rank's tensor of the same shape, on every rank; ``values`` is kept."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def own_share(count: int) -> range:
    """This rank's contiguous part of ``range(count)``; the parts differ in length by one at most."""
    ranks = world_size()
    return range(count * rank() // ranks, count * (rank() + 1) // ranks)


def broadcast_buffers(module: nn.Module) -> None:
    """Give every rank rank zero's buffers: batch normalisation tracks its own statistics on each rank in training.

    DDP does so before a training forward only, so an evaluation would embed by as many networks as there are ranks.
    """
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)
