"""In-Shop Clothes Retrieval, of DeepFashion (Liu, Luo, Qiu, Wang, Tang, CVPR 2016)."""

from pathlib import Path

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, read_columns
from lifted_lightning.data.table import ImageTable

LIST = "list_eval_partition.txt"
FOLDERS = ("inshop", "In-shop Clothes Retrieval Benchmark")
COLUMNS = ["image_name", "item_id", "evaluation_status"]


class InShop(RetrievalDataset):
    """7,982 garments, of which 3,997 train; of the others, each query is sought in the gallery.

    Below the data root lies ``inshop/`` (or the publisher's ``In-shop Clothes Retrieval Benchmark/``) with
    ``list_eval_partition.txt`` in it or in its ``Eval/``, and ``img/`` in it or in its ``Img/``.
    """

    name = "inshop"
    title = "In-Shop Clothes Retrieval"
    expected = Counts(25_882, 3_997, 26_830, 3_985, query_images=14_218, gallery_images=12_612)
    remedy = (
        "its authors give it on request (DeepFashion, In-shop Clothes Retrieval Benchmark): put "
        f"{LIST} and the unpacked img/ into inshop/ below the data root"
    )

    def table(self, root: Path) -> ImageTable:
        """The table, with query and gallery rows; items are paths below the data root."""
        lists = [f"{folder}/{part}{LIST}" for folder in FOLDERS for part in ("", "Eval/")]
        partition = self.first(root, *lists)
        folder = next(f for f in FOLDERS if (root / f) in partition.parents)
        if (root / folder / "Img" / "img").is_dir():
            folder = f"{folder}/Img"
        # The first line is their number; white space aligns the columns.
        listed = read_columns(partition, COLUMNS, sep=r"\s+", skiprows=1).sort_values("item_id", kind="stable")
        paths = [f"{folder}/{image}" for image in listed["image_name"]]
        return self.files(root, list(zip(paths, listed["item_id"], listed["evaluation_status"], strict=True)))

    def present(self, root: Path) -> bool:
        return any((root / folder).exists() for folder in FOLDERS)
