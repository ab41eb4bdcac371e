"""A sampler of one's own: lifted fit --config ../quickstart.yaml --data.sampler=my_sampler.ShuffledImages"""

import numpy as np

from lifted_lightning import GlobalBatchSampler


class ShuffledImages(GlobalBatchSampler):
    """Each image once a pass, in an order drawn anew: what batches are where nobody balances them.

    Of many small classes such a batch has hardly a positive pair, which is what samplers of pairs are for.

    Args:
        least_images: a class with fewer images is left out.
    """

    def __init__(self, least_images: int = 2) -> None:
        self.least_images = least_images

    def prepare(self) -> None:
        """Choose the rows to draw from; not needed where all that train will do."""
        labels = self.labels[self.rows]
        self.chosen = self.rows[np.bincount(labels)[labels] >= self.least_images]

    def batches_in_a_pass(self) -> int:
        """Whole batches of the rows chosen."""
        return len(self.chosen) // self.batch_size

    def draw(self, random: np.random.Generator, number: int) -> np.ndarray:
        """Rows (B,) of batch ``number`` of the run. ``random`` would do where a batch stands by itself."""
        passes, within = divmod(number, self.batches_in_a_pass())
        order = np.random.default_rng((self.seed, passes)).permutation(self.chosen)
        return order[within * self.batch_size :][: self.batch_size]
