"""The image table: what every data set becomes, and all that the rest of the package knows of it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lifted_lightning.errors import UserError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageTable:
    """N images, their classes, and which of them train and which test.

    Attributes:
        name: the data set's name, as shown in results.
        labels: (N,) int64, dense class indices 0..C-1.
        class_names: C names, in label order.
        train: rows of the training classes, ascending.
        test: rows of the test classes, ascending; no class is in both.
        items: N strings, one an image, unique: a path relative to the data set's root, or a name. They
            identify an image in messages, tables and results.
        reader: ``reader(items[i])`` returns image i as a PIL image. Picklable: worker processes call it.
        key: identifies the images' content (source, version), so that caches can be told apart.
        query: rows of ``test`` that are queries, where the data set keeps query and gallery apart.
        gallery: rows of ``test`` that are the gallery, given if and only if ``query`` is.

    Raises:
        UserError: if a class both trains and tests, or an item comes twice.
    """

    name: str
    labels: IntArray
    class_names: Sequence[str]
    train: IntArray
    test: IntArray
    items: Sequence[str]
    reader: Callable[[str], Image.Image]
    key: str
    query: IntArray | None = None
    gallery: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if len(self.items) != n:
            raise ValueError(f"{self.name}: {len(self.items)} items for {n} labels")
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.class_names)):
            raise ValueError(f"{self.name}: labels are not within 0..{len(self.class_names) - 1}")
        shared = np.intersect1d(self.labels[self.train], self.labels[self.test])
        if len(shared):
            names = ", ".join(self.class_names[c] for c in shared[:3])
            raise UserError(
                f"{self.name}: {len(shared)} classes both train and test, for example {names}: classes of the test "
                "must not be seen in training"
            )
        if len(set(self.items)) < n:
            twice = next(item for item, count in Counter(self.items).items() if count > 1)
            raise UserError(f"{self.name}: {twice} is listed twice; keep one")
        if (self.query is None) != (self.gallery is None):
            raise ValueError(f"{self.name}: query and gallery rows go together")

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, row: int) -> Image.Image:
        """Decode the image of one row."""
        return self.reader(self.items[row])


def class_digests(table: ImageTable, rows: IntArray) -> IntArray:
    """(C, 2) int64 for the C classes of these rows, in label order: a digest of a class's name, one of its items."""
    items: dict[int, list[str]] = {}
    for row in rows.tolist():
        items.setdefault(int(table.labels[row]), []).append(table.items[row])
    pairs = [(_digest([table.class_names[c]]), _digest(sorted(items[c]))) for c in sorted(items)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _digest(texts: Sequence[str]) -> int:
    content = "\0".join(texts).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


def split_training_rows(table: ImageTable, share: float, seed: int) -> tuple[IntArray, IntArray]:
    """Split the training rows by class into those that train and those that validate.

    Args:
        table: the image table.
        share: of the training classes, how many validate, in [0, 1): 0 none, else at least one.
        seed: of the choice of classes.

    Returns:
        Rows that train and rows that validate, each ascending; no class is in both.

    Raises:
        UserError: if no class would be left to train on.
    """
    classes = np.unique(table.labels[table.train])
    count = max(1, round(share * len(classes))) if share else 0
    if count >= len(classes):
        raise UserError(f"{table.name}: {len(classes)} training classes leave none to train on after the split")
    chosen = np.random.default_rng(seed).permutation(classes)[:count]
    validates = np.isin(table.labels[table.train], chosen)
    return table.train[~validates], table.train[validates]
