"""Omniglot: handwritten characters of 50 alphabets (Lake, Salakhutdinov, Tenenbaum, Science 2015)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable

FOLDER = "omniglot-py"
PARTS = {"images_background": "train", "images_evaluation": "test"}
MD5 = {"images_background": "68d2efa1b9178cc56df9314c21c6e718", "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811"}
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"


class Omniglot(RetrievalDataset):
    """Characters as classes, ``Alphabet/character01``, each drawn by 20 people; 105x105, black on white.

    The background alphabets train (964 characters), the evaluation alphabets test (659). Files lie as
    torchvision lays them: ``omniglot-py/images_background/<alphabet>/<character>/*.png`` and
    ``images_evaluation``.

    Args:
        rotations: train on each background character turned by 90, 180 and 270 degrees too, as classes of their
            own: four times as many, 3,856 (Santoro et al., ICML 2016). The test classes stay as they are. Where
            some classes validate, these are drawn from all, so that a character may validate and, turned, train.
    """

    name = "omniglot"
    title = "Omniglot"
    archives = tuple(
        Archive(f"{FOLDER}/{part}.zip", md5, target=f"{FOLDER}/{part}", url=f"{URL}/{part}.zip")
        for part, md5 in MD5.items()
    )
    expected = Counts(train_images=19_280, train_classes=964, test_images=13_180, test_classes=659)
    remedy = "run `lifted data prepare omniglot`"

    def __init__(self, rotations: bool = False) -> None:
        self.rotations = rotations

    def table(self, root: Path) -> ImageTable:
        """The table; items are paths below the data root."""
        images = []
        for part, split in PARTS.items():
            folder = self.first(root, f"{FOLDER}/{part}")
            for image in sorted(folder.glob("[!.]*/[!.]*/[!.]*.png")):  # macOS leaves hidden files in archives
                alphabet, character, name = image.parts[-3:]
                images.append((f"{FOLDER}/{part}/{alphabet}/{character}/{name}", f"{alphabet}/{character}", split))
        table = self.files(root, images)
        return with_turned(table) if self.rotations else table


@dataclass(frozen=True)
class TurningReader:
    """Reads items such as ``image.png@90``, turned counterclockwise by so many degrees; ``reader`` reads the others."""

    reader: Callable[[str], Image.Image]

    def __call__(self, item: str) -> Image.Image:
        path, mark, degrees = item.rpartition("@")
        return self.reader(path).rotate(int(degrees), fillcolor=255) if mark else self.reader(item)


def with_turned(table: ImageTable) -> ImageTable:
    """A table of square images, whose training classes come first, with these turned too, as classes of their own."""
    labels, items, names = [table.labels], list(table.items), list(table.class_names)
    trained = table.labels[table.train]
    for degrees in (90, 180, 270):
        labels.append(len(names) + trained)
        items += [f"{table.items[row]}@{degrees}" for row in table.train]
        names += [f"{name}@{degrees}" for name in table.class_names[: trained.max() + 1]]
    rows = np.arange(len(table), len(items), dtype=np.int64)
    return replace(
        table,
        labels=np.concatenate(labels),
        class_names=names,
        train=np.concatenate([table.train, rows]),
        items=items,
        reader=TurningReader(table.reader),
        key=f"{table.key}-turned",
    )
