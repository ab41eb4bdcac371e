"""Distances in float64, which decide every ranking, of embeddings as they are given."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import numpy.typing as npt
import torch
from torch import Tensor

from lifted_lightning.errors import UserError

Distance = Literal["euclidean", "cosine"]
Array = Tensor | npt.NDArray[Any]  # what the public functions take

_LARGEST = 1e150  # of an embedding's numbers: squares of larger ones overflow
_ROWS = 1024  # rows converted to float64 at a time
_VALUES = 2**20  # float64 values of a chunk of pairs: 8 MB, near the cache


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in IEEE single precision, whatever is allowed elsewhere (TF32, bfloat16, autocast)."""
    with ExitStack() as stack:
        if hasattr(torch.backends.mkldnn, "matmul"):
            for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
                stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
                backend.fp32_precision = "ieee"
        else:  # before torch 2.9 one setting is for all devices
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        for device in ("cpu", "cuda"):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def points_of(embeddings: Array, distance: Distance = "euclidean") -> Tensor:
    """The embeddings (N, D), float32 or float64, whose float64 differences are the distances that are ranked.

    Args:
        embeddings: (N, D) floating point; half precision is widened.
        distance: ``"euclidean"``, or ``"cosine"``: rows are then brought to length one, in float64.

    Raises:
        TypeError: if they are not floating point.
        ValueError: if they are not a matrix, or the distance is unknown.
        UserError: if some are not finite.
    """
    rows = torch.as_tensor(embeddings).detach()
    if rows.ndim != 2:
        raise ValueError(f"embeddings have shape {tuple(rows.shape)}, not (N, D)")
    if not rows.is_floating_point():
        raise TypeError(f"embeddings are {rows.dtype}, not floating point")
    if distance not in ("euclidean", "cosine"):
        raise ValueError(f"distance is {distance!r}, not 'euclidean' or 'cosine'")
    if rows.device.type == "mps":  # has no float64
        rows = rows.cpu()
    if rows.dtype not in (torch.float32, torch.float64):
        rows = rows.float()
    # The extremes show NaN, infinity and what float64 cannot square, tens of times faster than looking at each number.
    if rows.numel() and not (torch.stack(rows.aminmax()).abs() < _LARGEST).all():
        count = int((~(rows.abs() < _LARGEST).all(1)).sum())
        raise UserError(
            f"{count} of {len(rows)} embeddings are not finite: training has diverged; lower the learning rate"
        )
    return normalised(rows) if distance == "cosine" else rows


def normalised(embeddings: Tensor) -> Tensor:
    """Rows (N, D) of length one in float64; a zero row stays zero."""
    result = embeddings.to(torch.float64, copy=True)
    for rows in result.split(_ROWS):
        norms = fold_sum(rows.square()).cpu().sqrt_()  # for CUDA's root differs in the last digit
        rows /= norms.masked_fill_(norms == 0, 1.0)[:, None].to(rows.device)
    return result


def fold_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension by halves, in place.

    The order of additions depends on the length alone, and trailing zeros do not change it: so equal rows
    have equal sums, on every device and in whatever batch they come. ``torch.sum`` promises neither.
    """
    width = values.shape[-1]
    if width == 0:
        return values.sum(-1)
    half = 1 << (width - 1).bit_length() >> 1
    while half >= 1:
        rest = values.shape[-1] - half
        if rest > 0:
            values[..., :rest] += values[..., half:]
        values = values[..., :half]
        half //= 2
    return values[..., 0]


def squared_distances(rows: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """(n,) squared distances in float64 between ``rows[first]`` and ``rows[second]``."""
    result = torch.empty(len(first), dtype=torch.float64, device=rows.device)
    size = max(1, _VALUES // max(1, rows.shape[1]))
    for start in range(0, len(first), size):
        chunk = slice(start, start + size)
        result[chunk] = fold_sum((rows[first[chunk]].double() - rows[second[chunk]]).square_())
    return result
