"""Stanford Online Products (Oh Song, Xiang, Jegelka, Savarese, CVPR 2016)."""

from pathlib import Path

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, read_columns
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable

FOLDER = "Stanford_Online_Products"


class StanfordOnlineProducts(RetrievalDataset):
    """22,634 products in 2 to 12 photographs each; ``Ebay_train.txt`` trains, ``Ebay_test.txt`` tests."""

    name = "sop"
    title = "Stanford Online Products"
    archives = (Archive(name="Stanford_Online_Products.zip", md5="7f73d41a2f44250d4779881525aea32e", target=FOLDER),)
    expected = Counts(train_images=59_551, train_classes=11_318, test_images=60_502, test_classes=11_316)
    remedy = (
        "get Stanford_Online_Products.zip at https://cvgl.stanford.edu/projects/lifted_struct/, put it into "
        "the data root and run `lifted data prepare sop`"
    )

    def table(self, root: Path) -> ImageTable:
        """The table; items are paths below the data root, classes ``sofa 00042`` by kind and number."""
        folder = self.first(root, FOLDER)
        images = []
        for split in ("train", "test"):
            listed = read_columns(folder / f"Ebay_{split}.txt", ["class_id", "path"], sep=" ")
            for path, product in zip(listed["path"], listed["class_id"], strict=True):
                images.append((f"{FOLDER}/{path}", f"{path.split('_final/')[0]} {product:>05}", split))
        return self.files(root, images)
