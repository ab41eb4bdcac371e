"""The class-disjoint validation split: part of the training classes, the same for every seed and loss."""

import numpy as np

from lifted_lightning.data.table import ImageTable, IntArray
from lifted_lightning.errors import UserError


def split_training_rows(table: ImageTable, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split the training rows by class into those that train and those that validate.

    Args:
        table: the image table.
        share: of the training classes, how many validate: 0 none, else at least one.
        seed: of the choice of classes.

    Returns:
        Rows that train and rows that validate, each ascending; no class is in both.

    Raises:
        UserError: if ``share`` is not in [0, 1), or no class would be left to train on.
    """
    if not 0 <= share < 1:
        raise UserError(
            f"validation_share {share}: give the share of training classes that validate, in [0, 1)"
        )
    classes = np.unique(table.labels[table.train])
    count = max(1, round(share * len(classes))) if share else 0
    if count >= len(classes):
        raise UserError(
            f"{table.name}: {len(classes)} training classes leave none to train on after the split"
        )
    chosen = np.random.default_rng(seed).permutation(classes)[:count]
    validates = np.isin(table.labels[table.train], chosen)
    return table.train[~validates], table.train[validates]
