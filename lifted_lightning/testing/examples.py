"""The smallest batch that shows something, as code to paste."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]  # embeddings (B, D), labels (B,)
SECONDS = 5.0  # that making a batch smaller may take


def smallest(batch: Batch, shows: Callable[[Batch], bool]) -> Batch:
    """Leave out rows, then digits, as long as a batch shows what it shows.

    Args:
        batch: shows it.
        shows: whether another does.
    """
    end = time.monotonic() + SECONDS
    row = 0
    while row < len(batch[1]) > 1 and time.monotonic() < end:
        kept = torch.arange(len(batch[1])) != row
        smaller = batch[0][kept], batch[1][kept]
        if shows(smaller):
            batch = smaller
        else:
            row += 1
    unit = 10.0 ** math.floor(math.log10(float(batch[0].abs().max()) or 1.0))
    for digits in range(4):
        rounded = ((batch[0].double() / unit).round(decimals=digits) * unit).to(batch[0].dtype), batch[1]
        if time.monotonic() < end and shows(rounded):
            return rounded
    return batch


def as_code(batch: Batch) -> str:
    """A batch as Python, in as many digits as make the same float32."""
    rows = ", ".join("[" + ", ".join(map(str, row)) + "]" for row in batch[0].float().numpy() + np.float32(0))
    return f"embeddings = torch.tensor([{rows}])\nlabels = torch.tensor({batch[1].tolist()})"


def rolled(batch: Batch, step: int) -> Batch:
    """The batch of a later step: every row has the label of another, and is longer."""
    return batch[0] * (1 + step / 10), batch[1].roll(step)
