"""GlobalBatchSampler: all that batch samplers share, so that one of one's own is a single method, ``draw``."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError


class GlobalBatchSampler(ABC):
    """Draws global batches of rows of the image table, each from (seed, epoch, step) alone, and slices them by rank.

    A sampler is chosen as a loss is, by its class path, and constructed with its own options only. The data module
    then tells it what there is to draw from (``bind``). A sampler of one's own needs one method::

        class AnyImages(GlobalBatchSampler):
            def draw(self, random, number):
                return random.choice(self.rows, self.batch_size)

    W ranks with B/W rows each draw what one process with B draws, so ``draw`` must not look at the rank.

    It is deliberately no ``torch.utils.data.BatchSampler``: Lightning would silently wrap one again under DDP. Pass
    it as ``DataLoader(batch_sampler=...)`` with ``Trainer(use_distributed_sampler=False)``.

    Attributes:
        group: how many consecutive images of a batch stay together on a rank; a subclass may set its own.
        labels: (N,) int64, the class of each row of the image table, negative where a row does not train.
        rows: (n,) int64, the rows that train, ascending: what may be drawn.
        class_names: names by label, for messages; None where there are none.
        batch_size: images in a global batch, B.
        seed: of all that is drawn.
        batches_per_epoch: length of an epoch; None is one pass.
        rank: this process among those that train together.
        world_size: how many processes train together.
        device: where the network is; embeddings are best kept there.
        drawn_ahead: how many batches a loader may draw before the first of them has been trained on.
        repeat: whether every epoch has the batches of the first.
        epoch: whose batches the next ``iter`` gives.
        start: the (epoch, step) from which the run goes on; other epochs begin at step 0.
    """

    group: int = 1

    # What a sampler of one's own says: draw, and where it needs them the others

    @abstractmethod
    def draw(self, random: np.random.Generator, number: int) -> IntArray:
        """Draw one global batch.

        Args:
            random: seeded by (seed, epoch, step); take all that is random from it.
            number: of the batch in the run, from 0.

        Returns:
            (B,) rows of the image table, all of them among ``self.rows``. Rank r trains on the r-th slice of B/W.
        """

    def prepare(self) -> None:  # noqa: B027 (a hook, not a duty)
        """Get ready to draw: called by ``bind`` when the attributes above are set, anew for each run."""

    def batches_in_a_pass(self) -> int:
        """Length of an epoch where no ``batches_per_epoch`` is given."""
        return max(1, len(self.rows) // self.batch_size)

    def record(self, rows: Tensor, embeddings: Tensor) -> None:  # noqa: B027
        """Take in the embeddings (B, D) of the global batch just trained on, the rows of which are (B,)."""

    def diagnostics(self, number: int) -> dict[str, float]:
        """Figures of batch ``number``, which was drawn not long ago, to be logged as ``batch/NAME``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What batches depend on besides (seed, epoch, step): tensors and plain numbers only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what ``state_dict`` gave; called before ``start_at``."""

    # What every sampler has

    def bind(
        self,
        labels: npt.ArrayLike,
        *,
        batch_size: int,
        seed: int = 0,
        batches_per_epoch: int | None = None,
        class_names: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        drawn_ahead: int = 0,
        repeat: bool = False,
    ) -> Self:
        """Begin a run: say what to draw from, and for whom. The arguments become the attributes of their names.

        Returns:
            The sampler itself.

        Raises:
            UserError: if the batch does not divide into whole groups on each rank, or cannot be drawn of these images.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not within 0..{world_size - 1}")
        _check_divides(batch_size, self.group, world_size)
        self.labels = np.asarray(labels).astype(np.int64, casting="safe")
        self.rows = np.flatnonzero(self.labels >= 0)
        self.class_names = class_names
        self.batch_size, self.seed, self.batches_per_epoch = batch_size, seed, batches_per_epoch
        self.rank, self.world_size, self.device = rank, world_size, torch.device(device)
        self.drawn_ahead, self.repeat = drawn_ahead, repeat
        self.epoch, self.start = 0, (0, 0)
        self.prepare()
        return self

    def start_at(self, batches: int) -> None:
        """Go on after the run's first ``batches`` batches have been trained on; call ``load_state_dict`` before."""
        self.start = divmod(batches, len(self))
        # A loader with workers draws as soon as it is iterated, before Lightning tells the epoch.
        self.epoch = self.start[0]

    def global_batch(self, epoch: int, step: int) -> IntArray:
        """Rows (B,) of the image table that are batch ``step`` of ``epoch``, the same on every rank.

        Raises:
            UserError: if ``draw`` gave other than B rows that train.
        """
        random = np.random.default_rng((self.seed, 0 if self.repeat else epoch, step))
        rows = np.asarray(self.draw(random, self.number(epoch, step)))
        if rows.shape != (self.batch_size,) or not np.issubdtype(rows.dtype, np.integer):
            raise UserError(
                f"{type(self).__name__}.draw gave {rows.dtype} of shape {rows.shape}: "
                f"give batch_size {self.batch_size} row numbers"
            )
        if rows.min() < 0 or rows.max() >= len(self.labels) or self.labels[rows].min() < 0:
            raise UserError(f"{type(self).__name__}.draw gave a row that does not train: draw from self.rows")
        return rows

    def number(self, epoch: int, step: int) -> int:
        """Which batch of the run, from 0, batch ``step`` of ``epoch`` is; of a repeated one the first time."""
        return step if self.repeat else epoch * len(self) + step

    @property
    def own_slice(self) -> slice:
        """Which part of a global batch is this rank's."""
        share = self.batch_size // self.world_size
        return slice(self.rank * share, (self.rank + 1) * share)

    def steps(self) -> range:
        """The steps of this epoch that are left."""
        return range(self.start[1] if self.epoch == self.start[0] else 0, len(self))

    def __len__(self) -> int:
        """Global batches in an epoch."""
        return self.batches_per_epoch or self.batches_in_a_pass()

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.epoch
        for step in self.steps():
            yield self.global_batch(epoch, step)[self.own_slice].tolist()

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls ``set_epoch`` on ``batch_sampler.sampler``, never on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of ``epoch`` from the next ``iter`` on."""
        self.epoch = epoch


def _check_divides(batch_size: int, group: int, world_size: int) -> None:
    """Raise UserError unless a batch splits into whole groups on each rank; name the nearest sizes."""
    unit = group * world_size
    if batch_size > 0 and batch_size % unit == 0:
        return
    below = batch_size // unit * unit
    nearest = f"{below} or {below + unit}" if below > 0 else f"{unit}"
    raise UserError(
        f"batch_size {batch_size} does not divide into whole groups of {group} images on each of "
        f"{world_size} rank(s): the nearest that does is {nearest}"
    )
