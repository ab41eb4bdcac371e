"""Omniglot: handwritten characters of 50 alphabets (Lake, Salakhutdinov, Tenenbaum, Science 2015)."""

import os
from pathlib import Path

from lifted_lightning.data.datasets.base import Archive, Counts, RetrievalDataset, visible
from lifted_lightning.data.table import ImageTable

FOLDER = "omniglot-py"
PARTS = {"images_background": "train", "images_evaluation": "test"}
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"


class Omniglot(RetrievalDataset):
    """Characters as classes, ``Alphabet/character01``, each drawn by 20 people; 105x105, black on white.

    The background alphabets train (964 characters), the evaluation alphabets test (659). Files lie as
    torchvision lays them: ``omniglot-py/images_background/<alphabet>/<character>/*.png`` and
    ``images_evaluation``.
    """

    name = "omniglot"
    title = "Omniglot"
    archives = (
        Archive(
            name=f"{FOLDER}/images_background.zip",
            md5="68d2efa1b9178cc56df9314c21c6e718",
            target=f"{FOLDER}/images_background",
            url=f"{URL}/images_background.zip",
        ),
        Archive(
            name=f"{FOLDER}/images_evaluation.zip",
            md5="6b91aef0f799c5bb55b94e3f2daec811",
            target=f"{FOLDER}/images_evaluation",
            url=f"{URL}/images_evaluation.zip",
        ),
    )
    expected = Counts(train_images=19_280, train_classes=964, test_images=13_180, test_classes=659)
    remedy = "run `lifted data prepare omniglot`"

    def table(self, root: Path) -> ImageTable:
        """The table; items are paths below the data root."""
        items, classes, splits = [], [], []
        for part, split in PARTS.items():
            folder = self.first(root, f"{FOLDER}/{part}")
            for alphabet in filter(_is_folder, visible(folder)):
                for character in filter(_is_folder, visible(Path(alphabet))):
                    for image in visible(Path(character)):
                        if image.name.endswith(".png"):
                            items.append(f"{FOLDER}/{part}/{alphabet.name}/{character.name}/{image.name}")
                            classes.append(f"{alphabet.name}/{character.name}")
                            splits.append(split)
        return self.files(root, items, classes, splits)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir()
