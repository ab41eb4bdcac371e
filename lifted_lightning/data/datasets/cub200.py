"""CUB-200-2011: birds (Wah, Branson, Welinder, Perona, Belongie, Caltech 2011)."""

from pathlib import Path

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, read_columns, whole_number
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

FOLDER = "CUB_200_2011"
TRAIN_CLASSES = 100


class CUB200(RetrievalDataset):
    """200 species of birds; the first 100 train, the last 100 test.

    ``train_test_split.txt`` is not read: it splits for classification, with every species in both parts.
    """

    name = "cub200"
    title = "CUB-200-2011"
    archives = (
        Archive(
            name="CUB_200_2011.tgz",
            md5="97eceeb196236b17998738112f37df78",
            target=FOLDER,
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        ),
    )
    expected = Counts(train_images=5_864, train_classes=100, test_images=5_924, test_classes=100)
    remedy = "run `lifted data prepare cub200`"

    def table(self, root: Path) -> ImageTable:
        """The table; items are paths below the data root."""
        folder = self.first(root, FOLDER)
        names = dict(read_columns(folder / "classes.txt", 2))
        classes = dict(read_columns(folder / "image_class_labels.txt", 2))
        images = read_columns(folder / "images.txt", 2)
        unknown = next((path for number, path in images if classes.get(number) not in names), None)
        if unknown:
            raise UserError(f"{folder / 'images.txt'}: {unknown} has no class in image_class_labels.txt")
        listed = sorted((whole_number(classes[number], folder / "classes.txt"), path) for number, path in images)
        return self.files(
            root,
            items=[f"{FOLDER}/images/{path}" for _, path in listed],
            classes=[names[str(species)] for species, _ in listed],
            splits=["train" if species <= TRAIN_CLASSES else "test" for species, _ in listed],
        )
