"""The sampler: no class waits longer than a pass, so that no centre grows old."""

import numpy as np

from lifted_lightning import GlobalBatchSampler


class ClassesInTurn(GlobalBatchSampler):
    """Every class once a pass, in an order drawn anew, with ``samples_per_class`` of its images.

    Args:
        samples_per_class: M; a class with fewer repeats them.
    """

    def __init__(self, samples_per_class: int = 4) -> None:
        self.group = self.samples_per_class = samples_per_class

    def prepare(self) -> None:
        """Group the rows that train by class."""
        labels = self.labels[self.rows]
        self.members = [self.rows[labels == label] for label in np.unique(labels)]
        self.classes_per_batch = self.batch_size // self.samples_per_class

    def batches_in_a_pass(self) -> int:
        """Batches with which every class has come, but for a rest."""
        return max(1, len(self.members) // self.classes_per_batch)

    def draw(self, random: np.random.Generator, number: int) -> np.ndarray:
        """Rows (B,) of batch ``number`` of the run, M of a class in a row."""
        passes, within = divmod(number, self.batches_in_a_pass())
        order = np.random.default_rng((self.seed, passes)).permutation(len(self.members))
        turn = order.take(range(within * self.classes_per_batch, (within + 1) * self.classes_per_batch), mode="wrap")
        few = self.samples_per_class
        return np.concatenate([random.choice(self.members[c], few, len(self.members[c]) < few) for c in turn])
