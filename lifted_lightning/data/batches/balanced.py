"""Balanced batches, seeded with positive pairs and filled with their difficult neighbours."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lifted_lightning.data.batches.base import GlobalBatchSampler
from lifted_lightning.data.batches.neighbours import EmbeddingTable, nearest_of_other_classes
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError, counted, listed

# More than any loader draws ahead.
_SHARES_KEPT = 4096


class PositivePairs(GlobalBatchSampler):
    """Global batches of B/M classes with exactly M images each, as the paper's text describes them.

    A batch is seeded with positive pairs of classes drawn at random, without a class or (while its class has
    enough) an image twice. A share ``neighbours`` of its classes is then chosen as difficult neighbours: for
    each seed pair the nearest images of other classes to either of its two ends, each brought with images of
    its own class, so that the balance holds (Oh Song et al., CVPR 2016, section 4).

    Images of one class are consecutive; a seed pair is the first two of its class. Without ``batches_per_epoch`` an
    epoch is one pass's worth, images // B. Where fewer than B/M classes have a pair, the batch is of those, and a
    warning says so; ``bind`` raises UserError if it would be of one class.

    Args:
        samples_per_class: images of a class in a batch, M, at least 2; ``data.batch_size`` is a multiple of it on
            each rank. A class with fewer repeats them, only as far as needed; one with a single image is left out.
        neighbours: share, 0 to 1, of a batch's classes that come as difficult neighbours, rounded to whole
            classes; one seed pair stays. While too little has been seen, random classes take their place. Half by
            default, which was better on validation (``experiments/benchmarks/RESULTS.md``).
        refresh_interval: in batches: those of interval k seek neighbours in the embeddings as they stood at
            the start of interval k - 1. At least as long as what a loader draws ahead.
        class_weights: "uniform" draws every class alike, "size" in proportion to its number of images
            (successively, without replacement).

    Raises:
        UserError: if a value is out of range.
    """

    def __init__(
        self,
        samples_per_class: int = 4,
        neighbours: float = 0.5,
        refresh_interval: int = 50,
        class_weights: Literal["uniform", "size"] = "uniform",
    ) -> None:
        if samples_per_class < 2:
            raise UserError(f"samples_per_class {samples_per_class}: a positive pair needs at least 2")
        if not 0 <= neighbours <= 1:
            raise UserError(f"neighbours {neighbours}: give a share between 0 and 1")
        if refresh_interval < 1:
            raise UserError(f"refresh_interval {refresh_interval}: give at least 1 batch")
        if class_weights not in ("uniform", "size"):
            raise UserError(f"class_weights {class_weights!r}: choose uniform or size")
        self.group = self.samples_per_class = samples_per_class
        self.neighbours = neighbours
        self.refresh_interval = refresh_interval
        self.class_weights = class_weights

    def prepare(self) -> None:
        """Group the rows by class, and begin an empty table of embeddings."""
        classes = self.batch_size // self.samples_per_class
        if classes < 2:
            raise UserError(
                f"batch_size {self.batch_size} with {self.samples_per_class} images a class is one class, and leaves "
                f"nothing to tell it from: raise it to {2 * self.batch_size}"
            )
        self._members = self._rows_by_class()
        if (there := len(self._members)) < classes:
            classes = there // self.world_size * self.world_size
            if classes < 2:
                raise UserError(
                    f"batches: {there} classes that train have two images or more, and {max(2, self.world_size)} are "
                    "needed: give images of more classes, or more to each"
                )
            told = f"batch_size {self.batch_size}: only {there} classes that train have two images or more"
            self.batch_size = classes * self.samples_per_class
            if self.rank == 0:
                warnings.warn(f"{told}, so a batch has {self.batch_size} images of {classes} classes", stacklevel=3)
        self.classes_per_batch = classes
        self.seed_classes = max(1, classes - round(self.neighbours * classes))
        self._sizes = np.array([len(members) for members in self._members])
        self._shares: dict[int, float] = {}
        self._table: EmbeddingTable | None = None
        if self.seed_classes < classes:
            if self.refresh_interval < self.drawn_ahead:
                raise UserError(
                    f"refresh_interval {self.refresh_interval} is shorter than the {self.drawn_ahead} batches that "
                    f"are drawn ahead: raise it to {self.drawn_ahead}, or lower data.workers"
                )
            self._table = EmbeddingTable(self.rows, self.refresh_interval, self.device)
            # Of each row of the image table: its class among the members, or the number of them.
            self._class_of = np.full(len(self.labels), len(self._members))
            for index, members in enumerate(self._members):
                self._class_of[members] = index
            self._classes_on_device = torch.from_numpy(self._class_of[self.rows]).to(self.device)

    def batches_in_a_pass(self) -> int:
        """Images of the classes that have a pair, // B."""
        return max(1, int(self._sizes.sum()) // self.batch_size)

    def draw(self, random: np.random.Generator, number: int) -> IntArray:
        """Rows (B,), M consecutive ones a class."""
        classes = self._draw_classes(random)
        draws = random.random((len(classes), self.samples_per_class)).tolist()
        seeds, spare = classes[: self.seed_classes], classes[self.seed_classes :]
        images = [self._draw_images(c, u) for c, u in zip(seeds, draws, strict=False)]
        found = self._difficult_neighbours(number, seeds, images)
        taken = {c for c, _ in found}
        filled = found + [(c, None) for c in spare if c not in taken]
        for (c, first), u in zip(filled, draws[len(seeds) :], strict=False):
            images.append(self._draw_images(c, u, first))
        self._shares[number] = len(found) / len(classes)
        self._shares.pop(number - _SHARES_KEPT, None)
        return np.concatenate(images)

    def _difficult_neighbours(
        self, number: int, seeds: list[int], images: list[IntArray]
    ) -> list[tuple[int, int | None]]:
        """Up to B/M - S classes, each with the image (within it) that is near; the pairs choose in turn."""
        if self._table is None or (embeddings := self._table.snapshot(number)) is None:
            return []
        pairs = self._table.places(torch.from_numpy(np.stack([rows[:2] for rows in images])))
        near = nearest_of_other_classes(
            embeddings, pairs, self._classes_on_device, len(self._members), self.classes_per_batch
        )
        taken, wanted = set(seeds), self.classes_per_batch - len(seeds)
        found: list[tuple[int, int | None]] = []
        queues = [iter(self.rows[places].tolist()) for places in near]
        while queues and len(found) < wanted:
            queue = queues.pop(0)
            row = next((r for r in queue if self._class_of[r] not in taken), None)
            if row is not None:
                near_class = int(self._class_of[row])
                taken.add(near_class)
                found.append((near_class, int(np.searchsorted(self._members[near_class], row))))
                queues.append(queue)
        return found

    def diagnostics(self, number: int) -> dict[str, float]:
        """``neighbour_share``: the share of the batch's classes that came as difficult neighbours."""
        return {"neighbour_share": self._shares[number]}

    def record(self, rows: Tensor, embeddings: Tensor) -> None:
        """See base class: neighbours are sought in these embeddings, one interval later."""
        if self._table is not None:
            self._table.record(rows, embeddings)

    def start_at(self, batches: int) -> None:
        """See base class.

        Raises:
            UserError: if the embeddings were recorded over another number of batches.
        """
        super().start_at(batches)
        if self._table is not None:
            self._table.resume(batches)

    def state_dict(self) -> dict[str, Any]:
        """The embedding table, its snapshots in use and its count: tensors and plain numbers only."""
        return {} if self._table is None else self._table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See base class."""
        if self._table is not None and state:
            self._table.load_state_dict(state)

    def _draw_classes(self, random: np.random.Generator) -> list[int]:
        """B/M distinct classes, in the order in which they were drawn."""
        total, wanted = len(self._sizes), self.classes_per_batch
        if self.class_weights == "uniform":
            return _distinct(total, wanted, random.random(wanted).tolist())
        # The first arrivals of Poisson processes with the sizes as rates: successive draws by size.
        arrivals = random.exponential(size=total) / self._sizes
        earliest = np.argpartition(arrivals, wanted - 1)[:wanted]
        return earliest[np.argsort(arrivals[earliest])].tolist()

    def _draw_images(self, class_index: int, draws: Sequence[float], first: int | None = None) -> IntArray:
        """M rows of a class, the first two distinct, beginning with its image ``first`` if given."""
        members = self._members[class_index]
        chosen = _distinct(len(members), min(len(members), self.samples_per_class), draws, first)
        return members[np.resize(chosen, self.samples_per_class)]

    def _rows_by_class(self) -> list[IntArray]:
        """Rows of each class that has a pair, in label order; one warning counts and names the others."""
        labels = self.labels[self.rows]
        order = np.argsort(labels, kind="stable")
        present, starts = np.unique(labels[order], return_index=True)
        groups = np.split(self.rows[order], starts[1:])
        single = [label for label, group in zip(present.tolist(), groups, strict=True) if len(group) == 1]
        if single and self.rank == 0:
            names = [str(label) if self.class_names is None else self.class_names[label] for label in single]
            left_out = f"training leaves out {counted(len(single), 'class')} of a single image"
            warnings.warn(f"{left_out}: {listed(names, 10)}", stacklevel=3)
        return [group for group in groups if len(group) > 1]


def _distinct(count: int, wanted: int, draws: Sequence[float], first: int | None = None) -> list[int]:
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
