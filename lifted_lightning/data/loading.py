"""Rows of an image table as whole batches: from the pixel cache, or from the files, cropped at full resolution."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lifted_lightning.data.augment import crop_box, draw
from lifted_lightning.data.batches.base import GlobalBatchSampler
from lifted_lightning.data.images import UInt8Array, channels_last, sides
from lifted_lightning.data.pixels import Decoding, Pixels
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

Row = int | tuple[int, Sequence[float]]  # of the image table, and the random numbers by which to crop its image
AHEAD = 2  # batches that a thread makes before they are asked for
RATIO = (3 / 4, 4 / 3)  # least and greatest width/height of a random crop, as a multiple of the result's


@dataclass(eq=False)
class PixelRows(Dataset):
    """The rows of an image table from its decoded pixels, as whole batches.

    Give ``collate_fn=as_batch`` to its loader: a batch comes complete from ``__getitems__``.

    Args:
        pixels: of the whole image table.
        labels: (N,) int64, a class for each row of the table.
    """

    pixels: Pixels
    labels: IntArray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """A batch: images (b, C, H, W) uint8 in channels_last memory, labels (b,) and indices, the rows, (b,) int64."""
        indices = np.array(rows, dtype=np.int64)
        images = empty_images((len(indices), *self.pixels.shape[1:]))
        self.pixels.take(indices, out=images.numpy())
        return batch_of(images, self.labels, indices)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return self.__getitems__([row])


def batch_of(images: Tensor, labels: IntArray, indices: IntArray) -> dict[str, Tensor]:
    """Images (b, H, W, C) as a batch, with the labels of their rows of the image table and the rows themselves."""
    return {
        "images": images.permute(0, 3, 1, 2),
        "labels": torch.from_numpy(labels[indices]),
        "indices": torch.from_numpy(indices),
    }


def as_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ``collate_fn`` of a loader whose data set makes whole batches."""
    return batch


def empty_images(shape: tuple[int, ...]) -> Tensor:
    """Unset uint8 memory; in a loader's worker the memory by which it reaches the main process uncopied."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


@dataclass(eq=False)
class FileRows(Dataset):
    """The rows of an image table as whole batches, decoded when asked for; use it with ``collate_fn=as_batch``.

    A row alone gives the image as the pixel cache would have it. A row with the image's random numbers (from
    ``CropDraws``) gives a random crop of the image at its own resolution, resampled to ``size``; mirror and colours
    are the device's part (``CropMirror(size=None)``).

    Args:
        decoding: of the images, as the pixel cache would be told.
        labels: (N,) int64, a class for each row of the table.
        scale: least and greatest area of a random crop, as a share of the image.
    """

    decoding: Decoding
    labels: IntArray
    scale: tuple[float, float] = (0.2, 1.0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch: images (b, C, H, W) uint8, labels (b,) and indices, the rows, (b,) int64.

        Raises:
            UserError: naming an image that cannot be decoded.
        """
        drawn = [(int(row), None) if isinstance(row, int | np.integer) else row for row in rows]
        images = np.stack([self.read(row, draws) for row, draws in drawn])
        return batch_of(torch.from_numpy(images), self.labels, np.array([row for row, _ in drawn]))

    def __getitem__(self, row: Row) -> dict[str, Tensor]:
        return self.__getitems__([row])

    def read(self, row: int, draws: Sequence[float] | None) -> UInt8Array:
        """One image (H, W, C)."""
        image = self.decoding.image(row)
        if isinstance(image, UserError):
            name = self.decoding.table.name
            raise UserError(f"{name}: {image}; replace it, or leave it out with --data.skip_broken=true")
        return self.decoding.resized(image) if draws is None else self.random_crop(image, draws)

    def random_crop(self, image: Image.Image, draws: Sequence[float]) -> UInt8Array:
        h, w = sides(self.decoding.size)
        row, aspect = torch.tensor([draws]), image.width / image.height / (w / h)
        width, height, x, y = (float(value) for value in crop_box(row, aspect, self.scale, RATIO))
        left, right = (x - width + 1) / 2 * image.width, (x + width + 1) / 2 * image.width
        top, bottom = (y - height + 1) / 2 * image.height, (y + height + 1) / 2 * image.height
        box = (max(0.0, left), max(0.0, top), min(right, image.width), min(bottom, image.height))
        return channels_last(image.resize((w, h), Image.Resampling[self.decoding.interpolation.upper()], box=box))


@dataclass(eq=False)
class CropDraws:
    """A batch sampler that gives each row the random numbers that augmentation draws for its image.

    Workers can then crop as the device would have: by (seed, epoch, step) and place in the global batch.

    Args:
        batches: the sampler of this rank's slices of global batches.
    """

    batches: GlobalBatchSampler

    @property
    def sampler(self) -> GlobalBatchSampler:
        """Where Lightning sets the epoch."""
        return self.batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Row]]:
        batches, epoch = self.batches, self.batches.epoch
        for step, rows in zip(batches.steps(), batches, strict=True):
            draws = draw((batches.seed, epoch, step), batches.batch_size)
            yield list(zip(rows, draws[batches.own_slice].tolist(), strict=True))


END = object()


class PrefetchLoader(DataLoader):
    """A DataLoader whose batches are made ahead of the step that uses them, by a thread of this process.

    Decoded pixels need no worker processes: reading a batch is a copy of memory, during which Python runs on,
    and a worker would have to copy it once more, into memory that it shares. Use it with ``num_workers=0``
    and a sampler that leaves torch's global random generator alone, as the package's do.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        batches = super().__iter__()
        pins = self.pin_memory and torch.cuda.is_available()  # for this rank's device; a new thread takes the first
        begin = partial(torch.cuda.set_device, torch.cuda.current_device()) if pins else None
        with ThreadPoolExecutor(1, initializer=begin) as thread:
            drawn = deque(thread.submit(next, batches, END) for _ in range(AHEAD))
            while (batch := drawn.popleft().result()) is not END:
                drawn.append(thread.submit(next, batches, END))
                yield batch


def share_of_rank(rows: IntArray, rank: int, ranks: int) -> IntArray:
    """This rank's share of the rows of an evaluation, at least one of them."""
    share = np.array_split(rows, ranks)[rank]
    # Without one Lightning would skip this rank's loop, and with it the gathering of embeddings, which drops repeats.
    return share if len(share) else rows[:1]


def drawn_ahead(workers: int) -> int:
    """How many batches a loader may draw before the first of them has been trained on."""
    # Each worker prepares two, or a thread AHEAD; and Lightning may hold one to know which is the last.
    return max(2 * workers, AHEAD) + 1


def make_loader(rows: Dataset, workers: int, **settings: Any) -> DataLoader:
    """A loader of whole batches: by worker processes, or without any in a thread."""
    loader = DataLoader if workers else PrefetchLoader
    return loader(
        rows,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        collate_fn=as_batch,  # type: ignore[arg-type]
        worker_init_fn=ignore_interrupts,
        **settings,
    )


def ignore_interrupts(worker: int) -> None:
    """Leave Ctrl-C to the main process: a terminal sends it to workers too, and the run still needs them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
