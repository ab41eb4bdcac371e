"""What all batch samplers share: global batches by (epoch, step), each rank's slice, and where to resume."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

AHEAD = 2  # batches drawn before they are asked for


Labels = Sequence[int] | npt.NDArray[np.integer] | Tensor


class GlobalBatchSampler(ABC):
    """Yields this rank's slice of global batches, each a pure function of (seed, epoch, step).

    A batch is a list of positions into ``labels``. W ranks with B/W rows each draw what one process with B
    draws, so nothing here depends on the rank but the slice.

    It is deliberately no ``torch.utils.data.BatchSampler``: Lightning would silently re-wrap one under DDP.
    Pass it as ``DataLoader(batch_sampler=...)`` with ``Trainer(use_distributed_sampler=False)``.

    Args:
        batch_size: images in a global batch, B.
        group: images that stay together on a rank (a class's images, or the two of a pair).
        seed: of all that is drawn, at least 0.
        batches_per_epoch: length of an epoch; None leaves it to the sampler: one pass.
        rank: this process among those that train together.
        world_size: how many processes train together.

    Raises:
        UserError: if the batch does not divide into whole groups on each rank.
    """

    def __init__(
        self,
        batch_size: int,
        group: int,
        seed: int,
        batches_per_epoch: int | None,
        rank: int,
        world_size: int,
    ) -> None:
        if seed < 0:
            raise UserError(f"seed {seed}: give a number of at least 0")
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise UserError(f"batches_per_epoch {batches_per_epoch}: give at least 1, or none for one pass")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not within 0..{world_size - 1}")
        check_divides(batch_size, group, world_size)
        self.batch_size = batch_size
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._start = (0, 0)

    @abstractmethod
    def __len__(self) -> int:
        """Global batches in an epoch."""

    @abstractmethod
    def global_batch(self, epoch: int, step: int) -> IntArray:
        """Positions (B,) of batch ``step`` of ``epoch``, the same on every rank."""

    @property
    def sampler(self) -> Self:
        """Itself: Lightning calls ``set_epoch`` on ``batch_sampler.sampler``, never on the batch sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of ``epoch`` from the next ``iter`` on."""
        self.epoch = epoch

    @property
    def start(self) -> tuple[int, int]:
        """The (epoch, step) from which a run goes on, in batches trained on; other epochs begin at step 0.

        Set it after ``load_state_dict``.
        """
        return self._start

    @start.setter
    def start(self, position: tuple[int, int]) -> None:
        self._start = position
        # A loader with workers draws as soon as it is iterated, before Lightning tells the epoch.
        self.epoch = position[0]
        self._resume(position[0] * len(self) + position[1])

    def _resume(self, batches: int) -> None:  # noqa: B027 (a hook, not a duty)
        """Go on after ``batches`` batches of the run."""

    def __iter__(self) -> Iterator[list[int]]:
        share = self.batch_size // self.world_size
        rows = slice(self.rank * share, (self.rank + 1) * share)
        epoch = self.epoch
        first = self._start[1] if epoch == self._start[0] else 0
        for step in range(first, len(self)):
            yield self.global_batch(epoch, step)[rows].tolist()

    @property
    def wants_embeddings(self) -> bool:
        """Whether ``record`` is to be called after each training step."""
        return False

    def record(self, positions: Tensor, embeddings: Tensor) -> None:  # noqa: B027 (a hook, not a duty)
        """Take in the embeddings (B, D) of the global batch just trained on, whose positions are (B,)."""

    def neighbour_share(self, epoch: int, step: int) -> float:
        """Share of a drawn batch's classes that came as difficult neighbours."""
        return 0.0

    def check_drawn_ahead(self, workers: int) -> None:  # noqa: B027
        """Raise UserError if a loader of so many workers would draw further ahead than the batches allow."""

    def state_dict(self) -> dict[str, Any]:
        """What batches depend on besides (seed, epoch, step): tensors and plain numbers only."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what ``state_dict`` gave; call it before ``start`` is set."""


def check_divides(batch_size: int, group: int, world_size: int) -> None:
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


def as_labels(labels: Labels) -> IntArray:
    """One-dimensional int64 labels from a list, an array or a tensor."""
    array = labels.numpy(force=True) if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if array.ndim != 1 or not (len(array) == 0 or np.issubdtype(array.dtype, np.integer)):
        raise ValueError(f"labels must be one row of integers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def distinct(count: int, wanted: int, draws: Sequence[float], first: int | None = None) -> list[int]:
    """An ordered random sample without replacement from ``range(count)``, from given uniform draws.

    A Fisher-Yates shuffle that is stopped after ``wanted`` places and keeps only the moved entries, so its
    cost does not grow with ``count``.

    Args:
        count: how many there are to choose from.
        wanted: how many to choose, at most ``count``.
        draws: at least ``wanted`` numbers in [0, 1).
        first: an entry that must come first, the others being random.
    """
    moved: dict[int, int] = {}
    chosen = []
    for place in range(wanted):
        if place == 0 and first is not None:
            other = first
        else:
            other = place + int(draws[place] * (count - place))
        chosen.append(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return chosen
