"""RetrievalDataModule: from a data set's name to balanced global batches and class-disjoint evaluation."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.global_batches import GlobalBatchSampler
from lifted_lightning.data.pixels import PixelRows, Pixels, as_batch, open_pixels
from lifted_lightning.data.samplers import PositivePairBatchSampler
from lifted_lightning.data.split import split_training_rows
from lifted_lightning.data.table import ImageTable, IntArray


class RetrievalDataModule(LightningDataModule):
    """Images of a data set, as class-balanced training batches and as evaluation sets of unseen classes.

    Args:
        dataset: what to train and test on.
        root: the folder that holds data sets; by default the environment's ``LIFTED_DATA_DIR``, else ``data``.
        batch_size: images in a *global* batch, whatever the number of devices.
        samples_per_class: images of each class in a batch.
        batches_per_epoch: global batches in an epoch; None is one pass's worth.
        neighbours: share of a batch's classes that come as difficult neighbours of its positive pairs.
        refresh_interval: steps between two looks at where the neighbours are.
        class_weights: whether classes are drawn alike, or by their number of images.
        size: side in pixels of the decoded images that training crops from.
        resize: how an image becomes square: see ``open_pixels``.
        channels: 1 for grey images, 3 for colour.
        validation_share: share of the training classes kept for validation; 0 keeps none.
        split_seed: of the choice of validation classes; of its own, so that runs with other seeds share it.
        eval_batch_size: images of a batch in evaluation, on each device.
        workers: processes that load batches; 0 loads in the training process, which the cache makes cheap.
        cache_dir: where decoded images are kept.
        seed: of the batches; the command line links it to ``seed_everything``.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        root: str | None = None,
        batch_size: int = 128,
        samples_per_class: int = 4,
        batches_per_epoch: int | None = None,
        neighbours: float = 0.0,
        refresh_interval: int = 50,
        class_weights: Literal["uniform", "size"] = "uniform",
        size: int = 256,
        resize: Literal["squash", "crop", "pad"] = "squash",
        channels: Literal[1, 3] = 3,
        validation_share: float = 0.2,
        split_seed: int = 0,
        eval_batch_size: int = 256,
        workers: int = 0,
        cache_dir: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dataset = dataset
        self.root = data_root(root)
        self.batch_size = batch_size
        self.samples_per_class = samples_per_class
        self.batches_per_epoch = batches_per_epoch
        self.neighbours = neighbours
        self.refresh_interval = refresh_interval
        self.class_weights = class_weights
        self.size = size
        self.resize = resize
        self.channels = channels
        self.validation_share = validation_share
        self.split_seed = split_seed
        self.eval_batch_size = eval_batch_size
        self.workers = workers
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else None
        self.seed = seed
        self.pixels: Pixels | None = None
        self.sampler: GlobalBatchSampler | None = None
        self._sampler_state: dict[str, Any] = {}

    # What is known without decoding an image

    @cached_property
    def table(self) -> ImageTable:
        """The data set's image table."""
        return self.dataset.table(self.root)

    @cached_property
    def _split(self) -> tuple[IntArray, IntArray]:
        return split_training_rows(self.table, self.validation_share, self.split_seed)

    @property
    def train_rows(self) -> IntArray:
        return self._split[0]

    @property
    def validation_rows(self) -> IntArray:
        return self._split[1]

    @cached_property
    def train_labels(self) -> IntArray:
        """(N,) dense labels 0..num_classes-1 of the rows that train, -1 elsewhere: what the loss sees."""
        labels = np.full(len(self.table), -1, dtype=np.int64)
        labels[self.train_rows] = np.unique(self.table.labels[self.train_rows], return_inverse=True)[1]
        return labels

    @property
    def num_classes(self) -> int:
        """Number of classes that train: what losses with proxies ask for."""
        return int(self.train_labels.max()) + 1

    @property
    def class_names(self) -> Sequence[str]:
        return self.table.class_names

    @property
    def items(self) -> Sequence[str]:
        return self.table.items

    def names(self, rows: Sequence[int]) -> list[str]:
        """Names of the images in these rows of the table, for messages."""
        return [self.table.items[row] for row in rows]

    def query_gallery(self, stage: str) -> tuple[IntArray | None, IntArray | None]:
        """Rows that are queries and rows that are the gallery, where the stage's set keeps them apart."""
        return (self.table.query, self.table.gallery) if stage == "test" else (None, None)

    def thumbnails(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """The decoded images of these rows, (n, H, W, C) uint8."""
        assert self.pixels is not None, "setup decodes the images"
        return np.asarray(self.pixels[rows])

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        if self.pixels is None:
            self.pixels = open_pixels(
                self.table, self.size, mode=self.resize, channels=self.channels, cache_dir=self.cache_dir
            )
        if stage == "fit":
            self.sampler = self._build_sampler()

    def _build_sampler(self) -> GlobalBatchSampler:
        trainer = self.trainer
        sampler = PositivePairBatchSampler(
            self.train_labels[self.train_rows],
            self.batch_size,
            self.samples_per_class,
            self.seed,
            batches_per_epoch=self.batches_per_epoch,
            neighbours=self.neighbours,
            refresh_interval=self.refresh_interval,
            class_weights=self.class_weights,
            class_names=[self.class_names[c] for c in np.unique(self.table.labels[self.train_rows])],
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            device=trainer.strategy.root_device if trainer else "cpu",
        )
        sampler.check_drawn_ahead(self.workers, None)
        return sampler

    def train_dataloader(self) -> DataLoader:
        assert self.pixels is not None
        assert self.sampler is not None
        if self._sampler_state:
            self.sampler.load_state_dict(self._sampler_state)
        if self.trainer:
            seen = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready
            self.sampler.start = divmod(seen, len(self.sampler))
        rows = PixelRows(self.pixels, self.train_labels, self.train_rows)
        return self._loader(rows, batch_sampler=self.sampler)

    def val_dataloader(self) -> DataLoader | list:
        return self._evaluation_loader(self.validation_rows) if len(self.validation_rows) else []

    def test_dataloader(self) -> DataLoader:
        return self._evaluation_loader(self.table.test)

    def predict_dataloader(self) -> DataLoader:
        return self.test_dataloader()

    def _evaluation_loader(self, rows: IntArray) -> DataLoader:
        """This rank's share of the rows; a rank beyond their number repeats one, which is dropped by index."""
        assert self.pixels is not None
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        share = np.array_split(rows, ranks)[rank]
        share = share if len(share) else rows[:1]
        return self._loader(PixelRows(self.pixels, self.table.labels, share), batch_size=self.eval_batch_size)

    def _loader(self, rows: PixelRows, **settings: Any) -> DataLoader:
        return DataLoader(
            rows,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=as_batch,
            **settings,
        )

    # Hard neighbours, and resuming

    def record(self, indices: Tensor, embeddings: Tensor) -> None:
        """Take in the embeddings (B, D) of the global batch in training; ``indices`` (B,) are table rows."""
        if self.sampler is not None and self.sampler.wants_embeddings:
            positions = torch.from_numpy(self.train_rows).to(indices.device)
            self.sampler.record(torch.searchsorted(positions, indices), embeddings)

    def neighbour_share(self, epoch: int, step: int) -> float:
        """Share of a training batch's classes that came as difficult neighbours."""
        return self.sampler.neighbour_share(epoch, step) if self.sampler else 0.0

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict() if self.sampler else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sampler_state = state_dict

