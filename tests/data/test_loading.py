"""Images read without the cache, crops by global position, and batches made ahead of their time."""

import threading
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lifted_lightning.data.augment import ResizedCrop, draw
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.loading import AHEAD, CropDraws, FileRows, PixelRows, PrefetchLoader, as_batch
from lifted_lightning.data.pixels import Decoding, open_pixels
from lifted_lightning.data.table import ImageTable


@pytest.fixture
def table(tmp_path):
    """24 smooth pictures of several shapes, in 6 classes."""
    items = []
    for i in range(24):
        height, width = 40 + 3 * i, 90 - 2 * i
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([y * 255 / height, x * 255 / width, np.full_like(x, 10.0 * i)], axis=2)
        items.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(pixels.astype(np.uint8)).save(items[-1])
    labels = np.repeat(np.arange(6), 4)
    return ImageTable("smooth", labels, list("abcdef"), np.arange(16), np.arange(16, 24), items, Image.open, "smooth")


@pytest.mark.parametrize(("mode", "size"), [("squash", 16), ("crop", 16), ("crop", (20, 12))])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_without_crops_the_pixels_are_the_cache_s(table, tmp_path, mode, size, how):
    decoding = Decoding(table, size, mode, interpolation=how)
    cached = PixelRows(open_pixels(decoding, tmp_path), table.labels)
    direct = FileRows(decoding, table.labels)
    assert len(direct) == len(cached)
    batch = direct.__getitems__([19, 16])
    assert (batch["indices"].tolist(), batch["labels"].tolist()) == ([19, 16], [4, 4])
    for name, values in cached.__getitems__([19, 16]).items():
        assert torch.equal(batch[name], values)
    assert torch.equal(direct[1]["images"], cached[1]["images"])


def batches(table, rank=0, world_size=1, start=(0, 0), **options):
    labels = np.where(np.isin(np.arange(24), table.train), table.labels, -1)
    sampler = PositivePairs(2, 0.0).bind(labels, batch_size=8, seed=5, rank=rank, world_size=world_size)
    sampler.start_at(start[0] * 2 + start[1])
    rows = FileRows(Decoding(table, 16), table.labels)
    loader = DataLoader(rows, batch_sampler=CropDraws(sampler), collate_fn=as_batch, **options)
    sampler.set_epoch(start[0])
    return list(loader)


def test_ranks_and_workers_crop_as_one_process(table):
    whole = batches(table)
    parts = [batches(table, rank, 2, num_workers=rank) for rank in range(2)]
    assert len(whole) == len(parts[0]) == 2
    for step, batch in enumerate(whole):
        for name, values in batch.items():
            assert torch.equal(torch.cat([part[step][name] for part in parts]), values)


def test_a_resumed_run_goes_on_with_the_same_crops(table):
    assert torch.equal(batches(table, start=(0, 1))[0]["images"], batches(table)[1]["images"])
    assert not torch.equal(batches(table, start=(1, 0))[0]["images"], batches(table)[0]["images"])


@pytest.mark.parametrize("size", [16, (20, 10)])
def test_the_crop_is_the_device_s(table, size):
    """The same draws give the same region; a smooth picture hides the difference between the filters."""
    draws = draw((0, 0, 0), 4)
    rows = FileRows(Decoding(table, size), table.labels)
    crops = rows.__getitems__([(i, u) for i, u in enumerate(draws.tolist())])["images"]
    device = ResizedCrop(size, mirror=False, mean=[0.0] * 3, std=[1 / 255] * 3)
    for i in range(4):
        native = torch.from_numpy(np.asarray(table.read(i)).copy()).permute(2, 0, 1)[None]
        wanted = device(native, draws[i : i + 1])[0]
        assert (crops[i].float() - wanted).abs().max() < 4


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
    assert all(batch.is_pinned() for batch in PrefetchLoader(Numbers(), batch_size=4, pin_memory=True))
