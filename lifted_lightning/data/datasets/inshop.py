"""In-Shop Clothes Retrieval, of DeepFashion (Liu, Luo, Qiu, Wang, Tang, CVPR 2016)."""

from pathlib import Path

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, read_lines, whole_number
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

LIST = "list_eval_partition.txt"
FOLDERS = ("inshop", "In-shop Clothes Retrieval Benchmark")
HEADER = ["image_name", "item_id", "evaluation_status"]
STATUS = frozenset(("train", "query", "gallery"))


class InShop(RetrievalDataset):
    """7,982 garments, of which 3,997 train; of the others, each query is sought in the gallery.

    Below the data root lies ``inshop/`` (or the publisher's ``In-shop Clothes Retrieval Benchmark/``) with
    ``list_eval_partition.txt`` in it or in its ``Eval/``, and ``img/`` in it or in its ``Img/``.
    """

    name = "inshop"
    title = "In-Shop Clothes Retrieval"
    expected = Counts(
        train_images=25_882,
        train_classes=3_997,
        test_images=26_830,
        test_classes=3_985,
        query_images=14_218,
        gallery_images=12_612,
    )
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
        listed = sorted(read_partition(partition), key=lambda line: line[1])
        return self.files(
            root,
            items=[f"{folder}/{image}" for image, _, _ in listed],
            classes=[garment for _, garment, _ in listed],
            splits=[status for _, _, status in listed],
        )

    def present(self, root: Path) -> bool:
        return any((root / folder).exists() for folder in FOLDERS)


def read_partition(path: Path) -> list[list[str]]:
    """Image, garment and status of each line of the list, which begins with their number and a header.

    Raises:
        UserError: if the list is truncated or has an unknown status.
    """
    lines = [line.split() for line in read_lines(path)]
    if len(lines) < 2 or lines[1] != HEADER:
        raise UserError(f"{path}: its second line is not {' '.join(HEADER)!r}; is it the original file?")
    count, images = whole_number(lines[0][0], path), lines[2:]
    if len(images) != count:
        raise UserError(f"{path}: lists {len(images)} images, and says it has {count}; is it complete?")
    wrong = next((line for line in images if len(line) != 3 or line[2] not in STATUS), None)
    if wrong:
        raise UserError(f"{path}: {' '.join(wrong)[:80]!r} is not an image, its item and {sorted(STATUS)}")
    return images
