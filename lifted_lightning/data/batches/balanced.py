"""Balanced batches, seeded with positive pairs and filled with their difficult neighbours."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lifted_lightning.data.batches.base import AHEAD, GlobalBatchSampler, Labels, as_labels, distinct
from lifted_lightning.data.batches.neighbours import EmbeddingTable, nearest_of_other_classes
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

# More than any loader draws ahead.
_SHARES_KEPT = 4096


class PositivePairBatchSampler(GlobalBatchSampler):
    """Global batches of B/M classes with exactly M images each, as the paper's text describes them.

    A batch is seeded with positive pairs of classes drawn at random, without a class or (while its class has
    enough) an image twice. A share ``neighbours`` of its classes is then chosen as difficult neighbours: for
    each seed pair the nearest images of other classes to either of its two ends, each brought with images of
    its own class, so that the balance holds (Oh Song et al., CVPR 2016, section 4).

    Rows of one class are consecutive; a seed pair is the first two rows of its class.

    Args:
        labels: (N,) integers, the class of each training image; batches hold positions into it.
        batch_size: images in a global batch, B, a multiple of ``samples_per_class * world_size``.
        samples_per_class: images of a class in a batch, M, at least 2. A class with fewer repeats them, only
            as far as needed; a class with one image is left out.
        seed: of all that is drawn.
        batches_per_epoch: length of an epoch; None is one pass's worth, images // batch_size.
        neighbours: share, 0 to 1, of a batch's classes that come as difficult neighbours, rounded to whole
            classes; one seed pair stays. While too little has been seen, random classes take their place.
        refresh_interval: in batches: those of interval k seek neighbours in the embeddings as they stood at
            the start of interval k - 1. At least as long as what a loader draws ahead.
        class_weights: "uniform" draws every class alike, "size" in proportion to its number of images
            (successively, without replacement).
        class_names: names by label, for messages.
        rank: this process among those that train together.
        world_size: how many processes train together.
        device: where embeddings are kept and searched.

    Raises:
        UserError: if a value is out of range, the batch does not divide, or there are too few classes.
    """

    def __init__(
        self,
        labels: Labels,
        batch_size: int,
        samples_per_class: int = 4,
        seed: int = 0,
        *,
        batches_per_epoch: int | None = None,
        neighbours: float = 0.0,
        refresh_interval: int = 50,
        class_weights: Literal["uniform", "size"] = "uniform",
        class_names: Sequence[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        if samples_per_class < 2:
            raise UserError(f"samples_per_class {samples_per_class}: a positive pair needs at least 2")
        if not 0 <= neighbours <= 1:
            raise UserError(f"neighbours {neighbours}: give a share between 0 and 1")
        if class_weights not in ("uniform", "size"):
            raise UserError(f"class_weights {class_weights!r}: choose uniform or size")
        super().__init__(batch_size, samples_per_class, seed, batches_per_epoch, rank, world_size)
        self.samples_per_class = samples_per_class
        self.classes_per_batch = batch_size // samples_per_class
        self.seed_classes = max(1, self.classes_per_batch - round(neighbours * self.classes_per_batch))
        self.class_weights = class_weights
        all_labels = as_labels(labels)
        self._members = _images_by_class(all_labels, class_names, warn=rank == 0)
        if len(self._members) < self.classes_per_batch:
            raise UserError(
                f"batch_size {batch_size} with {samples_per_class} images a class needs "
                f"{self.classes_per_batch} classes, and only {len(self._members)} have two images or more: "
                f"lower batch_size or raise samples_per_class"
            )
        self._sizes = np.array([len(members) for members in self._members])
        self._shares: dict[int, float] = {}
        self._table: EmbeddingTable | None = None
        if self.seed_classes < self.classes_per_batch:
            self._table = EmbeddingTable(len(all_labels), refresh_interval, device)
            self._class_of, self._place = _where_in_class(self._members, len(all_labels))
            self._classes_on_device = torch.from_numpy(self._class_of).to(device)

    def __len__(self) -> int:
        return self.batches_per_epoch or max(1, int(self._sizes.sum()) // self.batch_size)

    def global_batch(self, epoch: int, step: int) -> IntArray:
        """Positions (B,) of batch ``step`` of ``epoch``, M consecutive ones a class, alike on every rank."""
        random = np.random.default_rng((self.seed, epoch, step))
        classes = self._draw_classes(random)
        draws = random.random((len(classes), self.samples_per_class)).tolist()
        seeds, spare = classes[: self.seed_classes], classes[self.seed_classes :]
        rows = [self._draw_images(c, u) for c, u in zip(seeds, draws, strict=False)]
        number = epoch * len(self) + step
        found = self._difficult_neighbours(number, seeds, rows)
        taken = {c for c, _ in found}
        filled = found + [(c, None) for c in spare if c not in taken]
        for (c, first), u in zip(filled, draws[len(seeds) :], strict=False):
            rows.append(self._draw_images(c, u, first))
        self._remember_share(number, len(found) / len(classes))
        return np.concatenate(rows)

    def _difficult_neighbours(
        self, number: int, seeds: list[int], rows: list[IntArray]
    ) -> list[tuple[int, int | None]]:
        """Up to B/M - S classes, each with the image (within it) that is near; the pairs choose in turn."""
        table = None if self._table is None else self._table.snapshot(number)
        if table is None:
            return []
        pairs = torch.from_numpy(np.stack([images[:2] for images in rows])).to(table.device)
        near = nearest_of_other_classes(
            table, pairs, self._classes_on_device, len(self._members), self.classes_per_batch
        )
        taken, wanted = set(seeds), self.classes_per_batch - len(seeds)
        found: list[tuple[int, int | None]] = []
        queues = [iter(positions) for positions in near]
        while queues and len(found) < wanted:
            queue = queues.pop(0)
            position = next((p for p in queue if self._class_of[p] not in taken), None)
            if position is not None:
                taken.add(int(self._class_of[position]))
                found.append((int(self._class_of[position]), int(self._place[position])))
                queues.append(queue)
        return found

    def _remember_share(self, number: int, share: float) -> None:
        """Keep the neighbour share of what is drawn but not yet trained on, and a few more."""
        self._shares[number] = share
        while len(self._shares) > _SHARES_KEPT:
            del self._shares[next(iter(self._shares))]

    def neighbour_share(self, epoch: int, step: int) -> float:
        """Share of a batch's classes that came as difficult neighbours, of batches drawn not long ago."""
        return self._shares[epoch * len(self) + step]

    @property
    def wants_embeddings(self) -> bool:
        """Whether ``record`` is to be called after each training step."""
        return self._table is not None

    def record(self, positions: Tensor, embeddings: Tensor) -> None:
        """Take in the embeddings (B, D) of the global batch just trained on, whose positions are (B,)."""
        if self._table is not None:
            self._table.record(positions, embeddings)

    def check_drawn_ahead(self, workers: int) -> None:
        """Raise UserError if a loader of so many workers draws further ahead than a refresh interval."""
        if self._table is None:
            return
        # Each worker prepares two, or a thread AHEAD; and Lightning may hold one to know which is the last.
        ahead = max(2 * workers, AHEAD) + 1
        if self._table.refresh_interval < ahead:
            raise UserError(
                f"refresh_interval {self._table.refresh_interval} is shorter than the {ahead} batches that "
                f"are drawn ahead with {workers} workers: raise it to {ahead}"
            )

    def _resume(self, batches: int) -> None:
        if self._table is not None:
            self._table.resume(batches)

    def state_dict(self) -> dict[str, Any]:
        """The embedding table, its snapshots in use and its count: tensors and plain numbers only."""
        return {} if self._table is None else self._table.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what ``state_dict`` gave; call it before ``start`` is set."""
        if self._table is not None and state:
            self._table.load_state_dict(state)

    def _draw_classes(self, random: np.random.Generator) -> list[int]:
        """B/M distinct classes, in the order in which they were drawn."""
        total, wanted = len(self._sizes), self.classes_per_batch
        if self.class_weights == "uniform":
            return distinct(total, wanted, random.random(wanted).tolist())
        # The first arrivals of Poisson processes with the sizes as rates: successive draws by size.
        arrivals = random.exponential(size=total) / self._sizes
        earliest = np.argpartition(arrivals, wanted - 1)[:wanted]
        return earliest[np.argsort(arrivals[earliest])].tolist()

    def _draw_images(self, class_index: int, draws: Sequence[float], first: int | None = None) -> IntArray:
        """M positions of a class, the first two distinct, beginning with its image ``first`` if given."""
        members = self._members[class_index]
        chosen = distinct(len(members), min(len(members), self.samples_per_class), draws, first)
        return members[np.resize(chosen, self.samples_per_class)]


def _images_by_class(labels: IntArray, class_names: Sequence[str] | None, warn: bool) -> list[IntArray]:
    """Positions of each class that has a pair, in label order; one warning counts and names the others."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    groups = np.split(order, starts[1:])
    single = [label for label, group in zip(present.tolist(), groups, strict=True) if len(group) == 1]
    if single and warn:
        named = [class_names[label] if class_names is not None else str(label) for label in single]
        more = f" and {len(named) - 10} more" if len(named) > 10 else ""
        warnings.warn(
            f"{len(single)} classes with a single image are left out of training batches: "
            f"{', '.join(named[:10])}{more}",
            stacklevel=3,
        )
    return [group for group in groups if len(group) > 1]


def _where_in_class(members: list[IntArray], images: int) -> tuple[IntArray, IntArray]:
    """(N,) class and (N,) place within it of each image; the number of classes where it is in none."""
    class_of = np.full(images, len(members))
    place = np.zeros(images, dtype=np.int64)
    for index, positions in enumerate(members):
        class_of[positions] = index
        place[positions] = np.arange(len(positions))
    return class_of, place
