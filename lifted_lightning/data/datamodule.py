"""RetrievalDataModule: from a data set's name to balanced global batches and class-disjoint evaluation."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import LightningDataModule, Trainer
from pytorch_lightning.utilities import rank_zero_only, rank_zero_warn
from torch.utils.data import DataLoader, Dataset, Subset

from lifted_lightning.data.batches import GlobalBatchSampler
from lifted_lightning.data.datasets.base import RetrievalDataset, data_root
from lifted_lightning.data.images import (
    INTERPOLATIONS,
    RESIZE_MODES,
    Interpolation,
    ResizeMode,
    Size,
    in_colour,
    sides,
)
from lifted_lightning.data.loading import CropDraws, FileRows, PixelRows, drawn_ahead, make_loader, share_of_rank
from lifted_lightning.data.pixels import Decoding, Pixels, open_pixels, unreadable
from lifted_lightning.data.table import (
    ImageTable,
    IntArray,
    class_digests,
    digest_of_rows,
    split_training_rows,
    with_pairs,
)
from lifted_lightning.errors import UserError, counted, listed

VALIDATION_SHARE = 0.2  # of the training classes, where neither a share nor folds are given


class RetrievalDataModule(LightningDataModule):
    """Images of a data set, as global training batches and as evaluation sets of unseen classes.

    Args:
        dataset: what to train and test on.
        sampler: which images make a batch, ``PositivePairs()`` for example; on the command line that is the default.
        root: the folder that holds data sets; by default the environment's ``LIFTED_DATA_DIR``, else ``data``.
        batch_size: images in a *global* batch, whatever the number of devices.
        batches_per_epoch: global batches in an epoch; None is one pass's worth.
        size: side in pixels of the decoded images that training crops from, or ``[height, width]``.
        resize: how an image comes to that shape: ``squash``, ``crop`` its middle, or ``pad`` it with white.
        interpolation: how pixels are made of others: ``bilinear`` (the default), ``bicubic`` or ``lanczos``.
        channels: 1 for grey images, 3 for colour.
        validation_share: share of the training classes kept for validation; 0 keeps none, None is 0.2. A data set with
            validation classes of its own is validated on those.
        folds: in place of a share, into how many class-disjoint parts the training classes are split. Each of them
            validates one run, which trains on the others; the test classes are the same for all.
        fold: which of the folds validates, 0 to ``folds - 1``.
        single_images: what becomes of the only image of a class, or a query with no other in the gallery: ``refuse``
            counts and names their classes, ``leave_out`` leaves them out. Published sets are what they are.
        split_seed: of the choice of validation classes and folds; of its own, so that runs with other seeds share it.
        eval_batch_size: images of a batch in evaluation, on each device.
        cache: decode each image once, into a memory-mapped file. Without it images are read at every use, and
            training takes random crops at their full resolution (``crop_scale``), so augment by mirror alone.
        cache_dir: where decoded images are kept.
        skip_broken: leave out images that cannot be decoded, instead of naming them and stopping.
        crop_scale: least and greatest share of an image's area in a random crop, where there is no cache.
        workers: processes that load batches; 0 loads in a thread, which is faster where there is a cache.
        seed: of the batches; the command line links it to ``seed_everything``.

    Raises:
        UserError: if a value is out of range.
    """

    def __init__(
        self,
        dataset: RetrievalDataset,
        sampler: GlobalBatchSampler,
        root: str | None = None,
        batch_size: int = 128,
        batches_per_epoch: int | None = None,
        size: Size = 256,
        resize: ResizeMode = "squash",
        channels: Literal[1, 3] = 3,
        validation_share: float | None = None,
        single_images: Literal["refuse", "leave_out"] = "refuse",
        split_seed: int = 0,
        eval_batch_size: int = 256,
        cache: bool = True,
        cache_dir: str | None = None,
        skip_broken: bool = False,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        workers: int = 0,
        seed: int = 0,
        interpolation: Interpolation = "bilinear",
        folds: int | None = None,
        fold: int | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("batches_per_epoch", batches_per_epoch, 1),
            ("split_seed", split_seed, 0),
            ("eval_batch_size", eval_batch_size, 1),
            ("workers", workers, 0),
            ("seed", seed, 0),
            ("folds", folds, 2),
            ("fold", fold, 0),
        ):
            if value is not None and not value >= least:
                raise UserError(f"data.{name} {value}: give at least {least}")
        sides(size, "data.size")
        for name, given, known in (
            ("channels", channels, (1, 3)),
            ("resize", resize, RESIZE_MODES),
            ("interpolation", interpolation, INTERPOLATIONS),
            ("single_images", single_images, ("refuse", "leave_out")),
        ):
            if given not in known:
                raise UserError(f"data.{name} {given}: give one of {', '.join(map(str, known))}")
        if (folds is None) != (fold is None) or (folds and fold is not None and fold >= folds):
            raise UserError(f"data.folds {folds}, data.fold {fold}: give how many, and from 0 which of them validates")
        if folds and validation_share is not None:
            raise UserError(f"data.validation_share {validation_share}: with data.folds leave it out, or give null")
        if validation_share is None:
            validation_share = 0.0 if folds else VALIDATION_SHARE
        if not 0 <= validation_share < 1:
            raise UserError(
                f"data.validation_share {validation_share}: give the share of training classes that validate, in [0, 1)"
            )
        if not 0 < crop_scale[0] <= crop_scale[1] <= 1:
            raise UserError(f"data.crop_scale {list(crop_scale)}: give two shares, 0 < least <= greatest <= 1")
        self.dataset = dataset
        self.root = data_root(root)
        self.batch_size = batch_size
        self.sampler = sampler
        self.batches_per_epoch = batches_per_epoch
        self.size = size
        self.resize = resize
        self.channels = channels
        self.interpolation = interpolation
        self.validation_share = validation_share
        self.single_images = single_images
        self.split_seed = split_seed
        self.folds = folds
        self.fold = fold
        self.eval_batch_size = eval_batch_size
        self.cache = cache
        self.cache_dir = Path(cache_dir).expanduser() if cache_dir else None
        self.skip_broken = skip_broken
        self.crop_scale = crop_scale
        self.workers = workers
        self.seed = seed
        self.pixels: Pixels | None = None
        self._readable: npt.NDArray[np.bool_] | None = None
        self._bound = False
        self._repeated = 0  # batches that make each epoch, always the same ones
        self._sampler_state: dict[str, Any] = {}

    # What is known without decoding an image

    @cached_property
    def table(self) -> ImageTable:
        """The data set's image table; single images are refused, or left out."""
        table, leave_out = self.dataset.table(self.root), self.single_images == "leave_out"
        if leave_out or self.dataset.expected is None:
            table, left_out = with_pairs(table, leave_out)
            if left_out:
                what = f"left out: {counted(len(left_out), 'class')} of a single image"
                rank_zero_warn(f"{table.name}: {what}: {listed(left_out)}")
        return table

    @cached_property
    def _split(self) -> tuple[IntArray, IntArray]:
        return split_training_rows(self.table, self.split_seed, self.validation_share, self.folds, self.fold)

    @property
    def _decoding(self) -> Decoding:
        return Decoding(self.table, self.size, self.resize, self.channels, self.interpolation)

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

    def classes_seen(self) -> dict[str, Any]:
        """What a checkpoint keeps of what it was trained on: data set, and (C, 2) digests of its classes."""
        parts = {"train": self.train_rows, "validation": self.validation_rows}
        digests = {part: torch.from_numpy(class_digests(self.table, rows)) for part, rows in parts.items()}
        return {"dataset": self.table.name, **digests}

    def trained_before(self, seen: dict[str, Any], rows: IntArray) -> list[str]:
        """Names of the classes of these rows that another data module's :meth:`classes_seen` says were trained on.

        They have the name of a class there, and either the data set's name or the names of all images as well.
        """
        items = dict(seen["train"].tolist())
        same = seen["dataset"] == self.table.name
        classes = np.unique(self.table.labels[rows]).tolist()
        digests = class_digests(self.table, rows).tolist()
        return [
            self.class_names[c]
            for c, (name, images) in zip(classes, digests, strict=True)
            if name in items and (same or items[name] == images)
        ]

    def names(self, rows: Sequence[int]) -> list[str]:
        """Names of the images in these rows of the table, for messages."""
        return [self.table.items[row] for row in rows]

    def query_gallery(self, stage: str) -> tuple[IntArray | None, IntArray | None]:
        """Rows that are queries and rows that are the gallery, where the stage's set keeps them apart."""
        return (self.table.query, self.table.gallery) if stage == "test" else (None, None)

    def thumbnails(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
        """The images of these rows as a network sees them before augmentation, (n, H, W, C) uint8."""
        return self._dataset(self.table.labels).__getitems__(rows.tolist())["images"].permute(0, 2, 3, 1).numpy()

    # Lightning's hooks

    def setup(self, stage: str) -> None:
        """Decode the images, if they are not cached yet, and tell the batch sampler what there is to draw from."""
        if self._readable is None:
            if self.trainer and self.trainer.world_size > 1:
                self._compare_ranks(self.trainer)
            self._readable = self._read_images()
            self._tell_of_colour()
        if self.trainer:
            self._take_trainer(self.trainer, stage)
        if stage == "fit" and not self._bound:
            self._bind_sampler()
            if self.table.validation is not None:
                own = f"{self.table.name}: its own classes validate; data.validation_share is not used"
                rank_zero_only(print)(own)

    def _compare_ranks(self, trainer: Trainer) -> None:
        """Refuse a table that is another on another rank, which would train on labels that mean other classes."""
        own = digest_of_rows(self.table)
        if not trainer.strategy.reduce_boolean_decision(trainer.strategy.broadcast(own) == own):
            raise UserError(
                f"{self.table.name}: images or classes come in another order on another rank: sort what the data set "
                "takes from a set, or from a folder's listing"
            )

    def _take_trainer(self, trainer: Trainer, stage: str) -> None:
        """Keep a trainer from slicing again what is each rank's share; refuse epochs that end before the sampler's."""
        trainer._accelerator_connector.use_distributed_sampler = False
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._repeated = trainer.overfit_batches  # type: ignore[attr-defined]
        if not isinstance(self._repeated, int) and self._repeated:
            raise UserError(f"trainer.overfit_batches {self._repeated}: give a whole number of batches")
        if not self._repeated and (isinstance(trainer.limit_train_batches, int) or trainer.limit_train_batches != 1.0):
            raise UserError("trainer.limit_train_batches: set data.batches_per_epoch instead")

    def _read_images(self) -> npt.NDArray[np.bool_]:
        """Decode the images into the cache, or see which can be decoded; gives which they are, (N,)."""
        readable = np.ones(len(self.table), dtype=bool)
        if self.cache:
            self.pixels = open_pixels(self._decoding, self.cache_dir, skip_broken=self.skip_broken)
            readable = self.pixels.valid
        elif self.skip_broken:
            readable[[row for row, _ in unreadable(self.table)]] = False
        broken = np.flatnonzero(~readable)
        if len(broken):
            named = listed(self.names(broken.tolist()))
            rank_zero_warn(f"{self.table.name}: left out, cannot be decoded: {counted(len(broken), 'image')}: {named}")
        return readable

    def _tell_of_colour(self) -> None:
        """Say that images in colour are read in grey, by a look at some of them."""
        rows = np.unique(np.linspace(0, len(self.table) - 1, 16, dtype=int)).tolist() if self.channels == 1 else []
        images = map(Decoding(self.table).image, rows)
        if coloured := sum(in_colour(image) for image in images if not isinstance(image, UserError)):
            rank_zero_warn(
                f"data.channels 1: {self.table.name} is in colour ({coloured} of {len(rows)} images looked at) and "
                "read in grey; to see the colours give --data.channels=3, and a network for 3 channels"
            )

    def _bind_sampler(self) -> None:
        rank, ranks = self._rank()
        usable = np.zeros(len(self.table), dtype=bool)
        usable[self._usable(self.train_rows)] = True
        self.sampler.bind(
            np.where(usable, self.train_labels, -1),
            batch_size=self.batch_size,
            seed=self.seed,
            batches_per_epoch=int(self._repeated) or self.batches_per_epoch,
            repeat=self._repeated > 0,
            class_names=[self.class_names[c] for c in np.unique(self.table.labels[self.train_rows])],
            rank=rank,
            world_size=ranks,
            device=self.trainer.strategy.root_device if self.trainer else "cpu",
            drawn_ahead=drawn_ahead(self.workers),
        )
        self._bound = True

    def rows_of(self, stage: str) -> IntArray:
        """The rows that a whole evaluation has, ``validation`` or ``test``."""
        return self._usable(self.table.test if stage == "test" else self.validation_rows)

    def _usable(self, rows: IntArray) -> IntArray:
        """The rows whose images could be decoded."""
        return rows if self._readable is None else rows[self._readable[rows]]

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> DataLoader:
        """This rank's slices of the global batches, from where the run stands."""
        if self._sampler_state:
            self.sampler.load_state_dict(self._sampler_state)
            self._sampler_state = {}
        if self.trainer:
            self.sampler.start_at(self.trainer.fit_loop.epoch_loop.batch_progress.total.ready)
        batches = self.sampler if self.cache else CropDraws(self.sampler)
        return make_loader(self._dataset(self.train_labels), self.workers, batch_sampler=batches)

    def val_dataloader(self) -> DataLoader | list:
        """This rank's share of the validation classes; nothing if there are none."""
        return self._evaluation_loader("validation") if len(self.validation_rows) else []

    def test_dataloader(self) -> DataLoader:
        """This rank's share of the test classes."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader:
        """As ``test_dataloader``."""
        return self.test_dataloader()

    def _evaluation_loader(self, stage: str) -> DataLoader:
        share = share_of_rank(self.rows_of(stage), *self._rank())
        images: Dataset = Subset(self._dataset(self.table.labels), share.tolist())
        return make_loader(images, self.workers, batch_size=self.eval_batch_size)

    def _dataset(self, labels: IntArray) -> PixelRows | FileRows:
        if self.pixels is not None:
            return PixelRows(self.pixels, labels)
        return FileRows(self._decoding, labels, self.crop_scale)

    def state_dict(self) -> dict[str, Any]:
        return self.sampler.state_dict() if self._bound else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sampler_state = state_dict


def data_of(trainer: Trainer) -> RetrievalDataModule:
    """The data module of a trainer.

    Raises:
        UserError: if it was given loaders instead.
    """
    if getattr(trainer, "datamodule", None) is None:
        raise UserError("the trainer has no data module: call trainer.fit(module, datamodule=RetrievalDataModule(...))")
    return cast(RetrievalDataModule, trainer.datamodule)  # type: ignore[attr-defined]
