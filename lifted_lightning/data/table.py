"""The image table: what every data set becomes, and all that the rest of the package knows of it."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lifted_lightning.errors import UNPRINTABLE, UserError, harmless, listed

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageTable:
    """N images, their classes, and which of them train and which test.

    Attributes:
        name: the data set's name, as shown in results.
        labels: (N,) int64, dense class indices 0..C-1.
        class_names: C names, in label order.
        train: rows of the training classes, ascending.
        test: rows of the test classes, ascending; a class is in one part only.
        items: N strings, one an image, unique: a path relative to the data set's root, or a name. They
            identify an image in messages, tables and results.
        reader: ``reader(items[i])`` returns image i as a PIL image. Picklable: worker processes call it.
        key: identifies the images' content (source, version), so that caches can be told apart.
        query: rows of ``test`` that are queries, where the data set keeps query and gallery apart.
        gallery: rows of ``test`` that are the gallery, given if and only if ``query`` is; a row may be both.
        validation: rows of validation classes of the data set's own, ascending; else some of those that train validate.
        cameras: (N,) int64, which camera took each image. If given, gallery images of a query's own class *and* camera
            do not count, as in re-identification (Zheng et al., *Scalable Person Re-identification*, ICCV 2015).

    Raises:
        UserError: if a class is in two parts, an item comes twice, or a name cannot be printed or is no UTF-8.
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
    validation: IntArray | None = None
    cameras: IntArray | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if len(self.items) != n:
            raise ValueError(f"{self.name}: {len(self.items)} items for {n} labels")
        if self.cameras is not None and len(self.cameras) != n:
            raise ValueError(f"{self.name}: {len(self.cameras)} cameras for {n} labels")
        if n and (self.labels.min() < 0 or self.labels.max() >= len(self.class_names)):
            raise ValueError(f"{self.name}: labels are not within 0..{len(self.class_names) - 1}")
        texts = [self.name, *self.class_names, *self.items]
        if UNPRINTABLE.search("".join(texts)):
            wrong = [text for text in texts if UNPRINTABLE.search(text)]
            raise UserError(
                f"{harmless(self.name)}: {len(wrong)} names of classes and images are no UTF-8 or hold control "
                f"characters, for example {wrong[0]!a}: rename them"
            )
        parts = {"train": self.train, "validate": self.validation, "test": self.test}
        there = {part: np.unique(self.labels[rows]) for part, rows in parts.items() if rows is not None}
        for one, other in combinations(there, 2):
            shared = np.intersect1d(there[one], there[other])
            if len(shared):
                names = listed([self.class_names[c] for c in shared])
                raise UserError(
                    f"{self.name}: {len(shared)} classes both {one} and {other}: {names}; give each one part"
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


def positives(table: ImageTable, query: IntArray, gallery: IntArray, by_camera: bool = True) -> IntArray:
    """(Q,) how many of the gallery (G,) are of a query's class, without itself and, by camera, those of its camera."""
    found = np.bincount(table.labels[gallery], minlength=len(table.class_names))[table.labels[query]]
    if table.cameras is None or not by_camera:
        return found - np.isin(query, gallery)
    keys = table.labels * (table.cameras.max() + 1) + table.cameras
    return found - np.bincount(keys[gallery], minlength=keys.max() + 1)[keys[query]]


def with_pairs(table: ImageTable, leave_out: bool = False) -> tuple[ImageTable, list[str]]:
    """The table without images that have no other of their class in their part, and the names of their classes.

    Of a test that keeps query and gallery apart they are the queries without an answer.

    Raises:
        UserError: counting and naming the classes, unless they may be left out, or if nothing would be left of a part.
    """
    parts: dict[str, Any] = {part: getattr(table, part) for part in ("train", "validation", "test", "query", "gallery")}
    parts = {part: rows for part, rows in parts.items() if rows is not None}
    sought = [(parts[part], parts[part]) for part in ("train", "validation") if part in parts]
    sought.append((parts.get("query", table.test), parts.get("gallery", table.test)))
    single = np.concatenate([query[positives(table, query, found, False) == 0] for query, found in sought])
    if not len(single):
        return table, []
    names = [table.class_names[c] for c in np.unique(table.labels[single])]
    kept: dict[str, Any] = {part: np.setdiff1d(rows, single) for part, rows in parts.items()}
    if not (leave_out and all(map(len, kept.values()))):
        remedy = "" if leave_out else ", or leave them out of a run with --data.single_images=leave_out"
        raise UserError(
            f"{table.name}: {len(names)} classes have a single image, or a query and nothing in the gallery: "
            f"{', '.join(names)}; add images{remedy}"
        )
    return replace(table, **kept), names


def class_digests(table: ImageTable, rows: IntArray) -> IntArray:
    """(C, 2) int64 for the C classes of these rows, in label order: a digest of a class's name, one of its items."""
    items: dict[int, list[str]] = {}
    for row in rows.tolist():
        items.setdefault(int(table.labels[row]), []).append(table.items[row])
    pairs = [(_digest([table.class_names[c]]), _digest(sorted(items[c]))) for c in sorted(items)]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def digest_of_rows(table: ImageTable) -> int:
    """A digest of what row and label numbers mean."""
    return _digest([*table.class_names, *table.items, *map(str, table.labels)])


def _digest(texts: Sequence[str]) -> int:
    content = "\0".join(texts).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "little", signed=True)


def split_training_rows(
    table: ImageTable, seed: int, share: float = 0.0, folds: int | None = None, fold: int | None = None
) -> tuple[IntArray, IntArray]:
    """Split the training rows by class into those that train and those that validate: by a share, or by folds.

    Of folds each training class validates in one and trains in the others, and their numbers of classes differ by one
    at most: the cross-validation of Musgrave, Belongie and Lim (*A Metric Learning Reality Check*, ECCV 2020).

    Args:
        table: the image table; one with validation rows of its own is split already, whatever the share.
        seed: of the choice of classes; with another the folds are others.
        share: of the training classes, how many validate, in [0, 1): 0 none, else at least one.
        folds: in place of a share, into how many parts the classes are split, at least 2.
        fold: which of them validates, 0..folds-1.

    Returns:
        Rows that train and rows that validate, each ascending; no class is in both.

    Raises:
        UserError: if no class would be left to train on, there are fewer training classes than folds, or folds of a
            table that has validation classes of its own.
    """
    if table.validation is not None:
        if folds is not None:
            raise UserError(
                f"data.folds {folds}: {table.name} has validation classes of its own; leave out folds and fold"
            )
        return table.train, table.validation
    classes = np.unique(table.labels[table.train])
    shuffled = np.random.default_rng(seed).permutation(classes)
    if folds is not None and fold is not None:
        if folds > len(classes):
            raise UserError(f"data.folds {folds}: {table.name} has {len(classes)} training classes; give fewer folds")
        validating = np.array_split(shuffled, folds)[fold]
    else:
        count = max(1, round(share * len(classes))) if share else 0
        if count >= len(classes):
            raise UserError(f"{table.name}: {len(classes)} training classes leave none to train on after the split")
        validating = shuffled[:count]
    validates = np.isin(table.labels[table.train], validating)
    return table.train[~validates], table.train[validates]
