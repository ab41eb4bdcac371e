"""The batches of the paper's released code: random pairs, half of them positive."""

import numpy as np

from lifted_lightning.data.batches.base import GlobalBatchSampler, Labels, as_labels
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

# A pass over the pairs is shuffled as a whole: 16 bytes for each positive one.
_MOST_PAIRS = 20_000_000


class ReleasedPairBatchSampler(GlobalBatchSampler):
    """Global batches of B/2 pairs in the scheme of the paper's released code, for its baselines.

    All positive pairs, an image with itself included, and as many random negative pairs are shuffled, and B/2
    consecutive pairs make a batch (the code released with Oh Song et al., CVPR 2016; not what its text says).
    After a pass over all pairs they are shuffled anew. Rows 2i and 2i + 1 of a batch are a pair.

    Args:
        labels: (N,) integers, the class of each training image; batches hold positions into it.
        batch_size: images in a global batch, B, a multiple of ``2 * world_size``.
        seed: of all that is drawn.
        batches_per_epoch: length of an epoch; None is one pass over the pairs.
        rank: this process among those that train together.
        world_size: how many processes train together.

    Raises:
        UserError: if the batch does not divide, there is only one class, or there are too few or many pairs.
    """

    def __init__(
        self,
        labels: Labels,
        batch_size: int,
        seed: int = 0,
        *,
        batches_per_epoch: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(batch_size, 2, seed, batches_per_epoch, rank, world_size)
        self._labels = as_labels(labels)
        self._order = np.argsort(self._labels, kind="stable")
        classes, self._starts, sizes = np.unique(self._labels[self._order], return_index=True, return_counts=True)
        if len(classes) < 2:
            raise UserError("negative pairs need images of two classes or more")
        self._pairs_before = np.concatenate([[0], np.cumsum(sizes * (sizes + 1) // 2)])
        self.positive_pairs = int(self._pairs_before[-1])
        self._pass_length = 2 * self.positive_pairs // (batch_size // 2)
        if not self._pass_length:
            raise UserError(
                f"batch_size {batch_size} needs {batch_size // 2} pairs, and there are {2 * self.positive_pairs}"
            )
        if self.positive_pairs > _MOST_PAIRS:
            raise UserError(
                f"{self.positive_pairs:,} positive pairs are too many to shuffle: this scheme is for small "
                f"classes; use PositivePairBatchSampler"
            )
        self._shuffled: tuple[int, IntArray] | None = None

    def __len__(self) -> int:
        return self.batches_per_epoch or self._pass_length

    def global_batch(self, epoch: int, step: int) -> IntArray:
        """Positions (B,) of batch ``step`` of ``epoch``, pair after pair, alike on every rank."""
        number, within = divmod(epoch * len(self) + step, self._pass_length)
        count = self.batch_size // 2
        pairs = self._shuffle(number)[within * count : (within + 1) * count]
        positive = pairs < self.positive_pairs
        batch = np.empty((count, 2), dtype=np.int64)
        batch[positive] = self._positive_pairs(pairs[positive])
        # A list of random pairs is as random if each is drawn when it is come to.
        random = np.random.default_rng((self.seed, epoch, step))
        batch[~positive] = self._random_negative_pairs(int(count - positive.sum()), random)
        return batch.ravel()

    def _shuffle(self, number: int) -> IntArray:
        """The order of all pairs in one pass: those below ``positive_pairs`` are positive."""
        if self._shuffled is None or self._shuffled[0] != number:
            random = np.random.default_rng((self.seed, number, 0, 2))
            self._shuffled = number, random.permutation(2 * self.positive_pairs)
        return self._shuffled[1]

    def _positive_pairs(self, numbers: IntArray) -> IntArray:
        """(n, 2) positions of the pairs so numbered: class by class, (0, 0), (0, 1), (1, 1), (0, 2) ..."""
        classes = np.searchsorted(self._pairs_before, numbers, side="right") - 1
        within = numbers - self._pairs_before[classes]
        second = ((np.sqrt(8 * within + 1) - 1) / 2).astype(np.int64)
        first = within - second * (second + 1) // 2
        return self._order[self._starts[classes][:, None] + np.stack([first, second], axis=1)]

    def _random_negative_pairs(self, count: int, random: np.random.Generator) -> IntArray:
        """(n, 2) positions of pairs of different classes, all such pairs alike."""
        pairs = random.integers(len(self._labels), size=(count, 2))
        while (same := self._labels[pairs[:, 0]] == self._labels[pairs[:, 1]]).any():
            pairs[same] = random.integers(len(self._labels), size=(int(same.sum()), 2))
        return pairs
