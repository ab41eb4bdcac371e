"""A loader that reads ahead in a thread."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader

AHEAD = 2  # batches drawn before they are asked for
END = object()


class PrefetchLoader(DataLoader):
    """A DataLoader whose batches are made ahead of the step that uses them, by a thread of this process.

    Decoded pixels need no worker processes: reading a batch is a copy of memory, during which Python runs on,
    and a worker would have to copy it once more, into memory that it shares. Use it with ``num_workers=0``
    and a sampler that leaves torch's global random generator alone, as the package's do.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        device = torch.cuda.current_device() if self.pin_memory and torch.cuda.is_available() else None
        with ThreadPoolExecutor(1, initializer=use_device, initargs=(device,)) as thread:
            drawn = deque(thread.submit(next, batches, END) for _ in range(AHEAD))
            while (batch := drawn.popleft().result()) is not END:
                drawn.append(thread.submit(next, batches, END))
                yield batch


def use_device(device: int | None) -> None:
    """Pin memory for this rank's device: a new thread would take the first, and a context on it."""
    if device is not None:
        torch.cuda.set_device(device)
