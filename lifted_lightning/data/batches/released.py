"""The batches of the paper's released code: random pairs, half of them positive."""

import numpy as np

from lifted_lightning.data.batches.base import GlobalBatchSampler
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError

# A pass over the pairs is shuffled as a whole: 16 bytes for each positive one.
_MOST_PAIRS = 20_000_000


class ReleasedPairs(GlobalBatchSampler):
    """Global batches of B/2 pairs in the scheme of the paper's released code, for its baselines.

    All positive pairs, an image with itself included, and as many random negative pairs are shuffled, and B/2
    consecutive pairs make a batch (the code released with Oh Song et al., CVPR 2016; not what its text says).
    After a pass over all pairs they are shuffled anew. Rows 2i and 2i + 1 of a batch are a pair. Without
    ``batches_per_epoch`` an epoch is one pass over the pairs.

    ``bind`` raises UserError if there is only one class, or there are too few or too many pairs.
    """

    group = 2

    def prepare(self) -> None:
        """Number the positive pairs."""
        labels = self.labels[self.rows]
        order = np.argsort(labels, kind="stable")
        self._by_class = self.rows[order]
        classes, self._starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
        if len(classes) < 2:
            raise UserError("negative pairs need images of two classes or more")
        self._pairs_before = np.concatenate([[0], np.cumsum(sizes * (sizes + 1) // 2)])
        self.positive_pairs = int(self._pairs_before[-1])
        count = self.batch_size // 2
        if 2 * self.positive_pairs < count:
            raise UserError(
                f"batch_size {self.batch_size} needs {count} pairs, and there are {2 * self.positive_pairs}: lower it"
            )
        if self.positive_pairs > _MOST_PAIRS:
            raise UserError(
                f"{self.positive_pairs:,} positive pairs are too many to shuffle: ReleasedPairs is for small "
                f"classes; use PositivePairs"
            )
        self._shuffled: tuple[int, IntArray] | None = None

    def batches_in_a_pass(self) -> int:
        """As many as there are whole batches of pairs."""
        return 2 * self.positive_pairs // (self.batch_size // 2)

    def draw(self, random: np.random.Generator, number: int) -> IntArray:
        """Rows (B,), pair after pair."""
        passes, within = divmod(number, self.batches_in_a_pass())
        count = self.batch_size // 2
        pairs = self._shuffle(passes)[within * count : (within + 1) * count]
        positive = pairs < self.positive_pairs
        batch = np.empty((count, 2), dtype=np.int64)
        batch[positive] = self._positive_pairs(pairs[positive])
        # A list of random pairs is as random if each is drawn when it is come to.
        batch[~positive] = self._random_negative_pairs(int(count - positive.sum()), random)
        return batch.ravel()

    def _shuffle(self, number: int) -> IntArray:
        """The order of all pairs in one pass: those below ``positive_pairs`` are positive."""
        if self._shuffled is None or self._shuffled[0] != number:
            random = np.random.default_rng((self.seed, number, 0, 2))
            self._shuffled = number, random.permutation(2 * self.positive_pairs)
        return self._shuffled[1]

    def _positive_pairs(self, numbers: IntArray) -> IntArray:
        """(n, 2) rows of the pairs so numbered: class by class, (0, 0), (0, 1), (1, 1), (0, 2) ..."""
        classes = np.searchsorted(self._pairs_before, numbers, side="right") - 1
        within = numbers - self._pairs_before[classes]
        second = ((np.sqrt(8 * within + 1) - 1) / 2).astype(np.int64)
        first = within - second * (second + 1) // 2
        return self._by_class[self._starts[classes][:, None] + np.stack([first, second], axis=1)]

    def _random_negative_pairs(self, count: int, random: np.random.Generator) -> IntArray:
        """(n, 2) rows of pairs of different classes, all such pairs alike."""

        def draw(count: int) -> IntArray:
            return self.rows[random.integers(len(self.rows), size=(count, 2))]

        pairs = draw(count)
        while (same := self.labels[pairs[:, 0]] == self.labels[pairs[:, 1]]).any():
            pairs[same] = draw(int(same.sum()))
        return pairs
