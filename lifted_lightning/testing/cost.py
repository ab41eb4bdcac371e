"""What a loss costs over the size of the batch, and what keeps it from being compiled or from running ahead."""

import math
import time
import timeit
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SIZES = [2**power for power in range(4, 14)]  # of batches: 16 to 8,192
SECONDS, BYTES = 1.0, 1e9  # where measuring ends
PATIENCE = 15.0  # seconds for all sizes
MEMORY = 24e9  # bytes: of what is extrapolated to
Step = Callable[[int], None]  # forward and backward on a batch of so many rows


class Cost(NamedTuple):
    """What a step costs with a batch of so many rows."""

    rows: int
    seconds: float
    bytes: float
    operations: int


def costs(step: Step) -> list[Cost]:
    """Measure a step on ever larger batches, up to 1 s, 1 GB, 8,192 rows, or the first that it does not take."""
    found: list[Cost] = []
    end = time.monotonic() + PATIENCE
    for rows in SIZES:
        try:
            found.append(_cost(step, rows))
        except Exception:  # a memory that is smaller, say; what is wrong at any size is another question's
            break
        if len(found) > 2:  # the next would cost as many times more
            factors = (found[-1].seconds / found[-2].seconds, found[-1].bytes / max(found[-2].bytes, 1))
            over = found[-1].seconds * factors[0] > SECONDS or found[-1].bytes * factors[1] > BYTES
            if over or time.monotonic() > end:
                break
    return found


def _cost(step: Step, rows: int) -> Cost:
    step(rows)
    best = min(timeit.repeat(partial(step, rows), number=1, repeat=3))
    with Meter() as meter:
        step(rows)
    return Cost(rows, best, float(meter.peak), meter.operations)


class Meter(TorchDispatchMode):
    """Counts operations, and the bytes that their results hold at once.

    What an operation itself needs meanwhile is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.peak = self._held = 0
        self._known: weakref.WeakSet[UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self._held += (size := storage.nbytes())
                weakref.finalize(storage, self._freed, size)
        self.peak = max(self.peak, self._held)
        return result

    def _freed(self, size: int) -> None:
        self._held -= size


def exponent(found: list[Cost], of: str) -> float:
    """The power of the number of rows by which a cost has grown over the last two doublings."""
    last, before = found[-1], found[-3]
    return math.log(max(getattr(last, of), 1e-9) / max(getattr(before, of), 1e-9)) / math.log(last.rows / before.rows)


def most_rows(found: list[Cost]) -> float:
    """How many rows would fit into ``MEMORY``, if it goes on like this."""
    last, power = found[-1], max(exponent(found, "bytes"), 1.0)
    return last.rows * (MEMORY / last.bytes) ** (1 / power)


def graph_breaks(call: Callable[[], object]) -> tuple[int, list[str]]:
    """How often dynamo leaves the graph in a call, and where."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(suppress_errors=False):
        found = torch._dynamo.explain(call)()
    places = []
    for reason in found.break_reasons:
        frame = reason.user_stack[-1] if reason.user_stack else None
        place = f" ({frame.filename.rsplit('/', 1)[-1]}:{frame.lineno})" if frame else ""
        places.append(str(reason.reason).splitlines()[0][:80] + place)
    torch._dynamo.reset()
    return max(found.graph_break_count, 0), places
