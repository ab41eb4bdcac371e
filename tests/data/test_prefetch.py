"""Reading ahead changes when batches are made, never which."""

import threading
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from lifted_lightning.data.batches.base import AHEAD
from lifted_lightning.data.loading import PrefetchLoader


class Numbers(Dataset):
    """Items 0..19; it notes the threads it is read from, and item ``bad`` raises."""

    def __init__(self, bad: int | None = None) -> None:
        self.bad = bad
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return 20

    def __getitem__(self, item: int) -> int:
        self.read.append(item)
        self.threads.add(threading.current_thread().name)
        if item == self.bad:
            raise OSError(f"item {item}")
        return item


class Pairs:
    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[list[int]]:
        return iter([i, 19 - i] for i in range(10))


def test_the_same_batches_from_another_thread():
    numbers = Numbers()
    loader = PrefetchLoader(numbers, batch_sampler=Pairs())
    for _ in range(2):
        assert [b.tolist() for b in loader] == [b.tolist() for b in DataLoader(Numbers(), batch_sampler=Pairs())]
    assert len(loader) == 10
    assert threading.current_thread().name not in numbers.threads


def test_it_reads_ahead_by_a_fixed_number_of_batches():
    numbers = Numbers()
    batches = iter(PrefetchLoader(numbers, batch_size=2))
    assert next(batches).tolist() == [0, 1]
    batches.close()  # type: ignore[attr-defined]
    assert numbers.read == list(range(2 * (1 + AHEAD)))


def test_an_error_comes_with_its_batch_and_stopping_early_does_not_hang():
    before = threading.active_count()
    batches = iter(PrefetchLoader(Numbers(bad=9), batch_size=3))
    seen = torch.cat(list(islice(batches, 3)))
    with pytest.raises(OSError, match="item 9"):
        next(batches)
    assert seen.tolist() == list(range(9))
    for _ in PrefetchLoader(Numbers(), batch_size=3):
        break
    assert threading.active_count() == before


@pytest.mark.gpu
def test_batches_are_pinned():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert all(batch.is_pinned() for batch in PrefetchLoader(Numbers(), batch_size=4, pin_memory=True))
