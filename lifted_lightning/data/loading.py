"""Rows of an image table as whole batches: from the pixel cache, or from the files, cropped at full resolution."""

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from lifted_lightning.data.augment import crop_box, draw
from lifted_lightning.data.batches.base import AHEAD, GlobalBatchSampler
from lifted_lightning.data.images import ResizeMode, UInt8Array, channels_last, image_or_error, to_pixels
from lifted_lightning.data.pixels import Pixels
from lifted_lightning.data.table import ImageTable, IntArray
from lifted_lightning.errors import UserError

if TYPE_CHECKING:
    pass


Position = int | tuple[int, Sequence[float]]


RATIO = (3 / 4, 4 / 3)  # least and greatest width/height of a random crop


class PixelRows(Dataset):
    """Rows of decoded images as whole batches.

    Give ``collate_fn=as_batch`` to its loader: a batch comes complete from ``__getitems__``.

    Args:
        pixels: of the whole image table.
        labels: (N,) int64, a class for each row of the table.
        rows: the table's rows that are in this set; positions index it.
    """

    def __init__(self, pixels: Pixels, labels: IntArray, rows: IntArray) -> None:
        self.pixels = pixels
        self.labels = labels
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """A batch: images (b, C, H, W) uint8 in channels_last memory, labels (b,) and indices (b,) int64."""
        rows = self.rows[np.asarray(positions, dtype=np.int64)]
        images = empty_images((len(rows), *self.pixels.shape[1:]))
        self.pixels.take(rows, out=images.numpy())
        return {
            "images": images.permute(0, 3, 1, 2),
            "labels": torch.from_numpy(self.labels[rows]),
            "indices": torch.from_numpy(rows),
        }

    def __getitem__(self, position: int) -> dict[str, Tensor]:
        return self.__getitems__([position])


def as_batch(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ``collate_fn`` of a loader whose data set makes whole batches."""
    return batch


def empty_images(shape: tuple[int, ...]) -> Tensor:
    """Unset uint8 memory; in a loader's worker the memory by which it reaches the main process uncopied."""
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(int(np.prod(shape)))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


class FileRows(Dataset):
    """Rows of an image table as whole batches, decoded when asked for; use it with ``collate_fn=as_batch``.

    A position alone gives the image as the pixel cache would have it. A position with the image's row of
    random numbers (from ``CropDraws``) gives a random crop of the image at its own resolution, resampled to
    ``size``; mirror and colours are the device's part (``CropMirror(size=None)``).

    Args:
        table: the images.
        labels: (N,) int64, a class for each row of the table.
        rows: the table's rows that are in this set; positions index it.
        size: side of the square images in pixels.
        mode: how an image that is not cropped becomes square, see ``images.to_pixels``.
        channels: 1 for grey, 3 for colour.
        scale: least and greatest area of a random crop, as a share of the image.
    """

    def __init__(
        self,
        table: ImageTable,
        labels: IntArray,
        rows: IntArray,
        size: int,
        mode: ResizeMode = "squash",
        channels: int = 3,
        scale: tuple[float, float] = (0.2, 1.0),
    ) -> None:
        self.table = table
        self.labels = labels
        self.rows = rows
        self.size = size
        self.mode = mode
        self.channels = channels
        self.scale = scale

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: Sequence[Position]) -> dict[str, Tensor]:
        """A batch: images (b, C, size, size) uint8, labels (b,) and indices (b,) int64.

        Raises:
            UserError: naming an image that cannot be decoded.
        """
        plain = [(p, None) if isinstance(p, int | np.integer) else p for p in positions]
        rows = self.rows[np.array([position for position, _ in plain], dtype=np.int64)]
        images = np.stack([self.read(row, draws) for row, (_, draws) in zip(rows.tolist(), plain, strict=True)])
        return {
            "images": torch.from_numpy(images).permute(0, 3, 1, 2),
            "labels": torch.from_numpy(self.labels[rows]),
            "indices": torch.from_numpy(rows),
        }

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        return self.__getitems__([position])

    def read(self, row: int, draws: Sequence[float] | None) -> UInt8Array:
        """One image (size, size, C)."""
        image = image_or_error(lambda: self.table.read(row), self.table.items[row], self.channels)
        if isinstance(image, UserError):
            raise UserError(f"{self.table.name}: {image}; replace it, or leave it out with skip_broken=true")
        return to_pixels(image, self.size, self.mode) if draws is None else self.random_crop(image, draws)

    def random_crop(self, image: Image.Image, draws: Sequence[float]) -> UInt8Array:
        row = torch.tensor([draws])
        width, height, x, y = (float(value) for value in crop_box(row, image.width / image.height, self.scale, RATIO))
        left, right = (x - width + 1) / 2 * image.width, (x + width + 1) / 2 * image.width
        top, bottom = (y - height + 1) / 2 * image.height, (y + height + 1) / 2 * image.height
        box = (max(0.0, left), max(0.0, top), min(right, image.width), min(bottom, image.height))
        size = (self.size, self.size)
        return channels_last(image.resize(size, Image.Resampling.BILINEAR, box=box))


class CropDraws:
    """A batch sampler that gives each position the random numbers that augmentation draws for its image.

    Workers can then crop as the device would have: by (seed, epoch, step) and place in the global batch.

    Args:
        batches: the sampler of this rank's slices of global batches.
    """

    def __init__(self, batches: GlobalBatchSampler) -> None:
        self.batches = batches

    @property
    def sampler(self) -> GlobalBatchSampler:
        """Where Lightning sets the epoch."""
        return self.batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Position]]:
        batches = self.batches
        share = batches.batch_size // batches.world_size
        epoch = batches.epoch
        first = batches.start[1] if epoch == batches.start[0] else 0
        for step, positions in enumerate(batches, start=first):
            draws = draw((batches.seed, epoch, step), batches.batch_size)
            mine = draws[batches.rank * share : (batches.rank + 1) * share].tolist()
            yield list(zip(positions, mine, strict=True))


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


def share_of_rank(rows: IntArray, rank: int, ranks: int) -> IntArray:
    """This rank's share of the rows of an evaluation, at least one of them."""
    share = np.array_split(rows, ranks)[rank]
    if not len(share):  # Lightning would skip this rank's loop, and with it the gathering of embeddings
        share = rows[:1]  # evaluated twice, and dropped by index
    return share


def make_loader(rows: PixelRows | FileRows, workers: int, **settings: Any) -> DataLoader:
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
