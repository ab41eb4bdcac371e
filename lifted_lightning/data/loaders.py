"""What the data module builds: the sampler of global batches, and loaders of this rank's rows."""

import signal
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader

from lifted_lightning.data.global_batches import GlobalBatchSampler
from lifted_lightning.data.prefetch import PrefetchLoader
from lifted_lightning.data.released import ReleasedPairBatchSampler
from lifted_lightning.data.rows import FileRows, PixelRows, as_batch
from lifted_lightning.data.samplers import PositivePairBatchSampler
from lifted_lightning.data.table import IntArray

if TYPE_CHECKING:
    from lifted_lightning.data.datamodule import RetrievalDataModule


def build_sampler(data: "RetrievalDataModule", labels: IntArray, rank: int, ranks: int) -> GlobalBatchSampler:
    """The sampler of global batches that a data module's settings ask for.

    Args:
        data: the data module.
        labels: (n,) labels of the rows that train.
        rank: of this process, of which the sampler gives the slices.
        ranks: how many there are.
    """
    if data.sampling == "released":
        return ReleasedPairBatchSampler(
            labels,
            data.batch_size,
            data.seed,
            batches_per_epoch=data.batches_per_epoch,
            rank=rank,
            world_size=ranks,
        )
    sampler = PositivePairBatchSampler(
        labels,
        data.batch_size,
        data.samples_per_class,
        data.seed,
        batches_per_epoch=data.batches_per_epoch,
        neighbours=data.neighbours,
        refresh_interval=data.refresh_interval,
        class_weights=data.class_weights,
        class_names=[data.class_names[c] for c in np.unique(data.table.labels[data.train_rows])],
        rank=rank,
        world_size=ranks,
        device=data.trainer.strategy.root_device if data.trainer else "cpu",
    )
    sampler.check_drawn_ahead(data.workers)
    return sampler


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


def batches_are_limited(trainer: Trainer) -> bool:
    """Whether a trainer would end epochs before the sampler does."""
    limit: int | float = trainer.limit_train_batches
    quick = getattr(trainer, "fast_dev_run", False)
    return not quick and (
        isinstance(limit, int) or limit != 1.0 or getattr(trainer, "overfit_batches", 0) != 0
    )
