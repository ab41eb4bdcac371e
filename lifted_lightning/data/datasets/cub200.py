"""CUB-200-2011: birds (Wah, Branson, Welinder, Perona, Belongie, Caltech 2011)."""

from pathlib import Path

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, read_columns
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable

FOLDER = "CUB_200_2011"
LAST_TRAIN_CLASS = "100"


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
        images, labels, classes = (
            read_columns(folder / file, ["number", name], sep=" ", names=["number", name])
            for file, name in (("images.txt", "path"), ("image_class_labels.txt", "species"), ("classes.txt", "name"))
        )
        listed = images.merge(labels, on="number").merge(classes, left_on="species", right_on="number")
        species = listed["species"].str.zfill(3)
        listed = listed.assign(species=species).sort_values(["species", "path"])
        paths = [f"{FOLDER}/images/{path}" for path in listed["path"]]
        splits = ["train" if species <= LAST_TRAIN_CLASS else "test" for species in listed["species"]]
        return self.files(root, list(zip(paths, listed["name"], splits, strict=True)))
