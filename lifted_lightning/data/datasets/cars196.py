"""Cars-196: makes and models of cars (Krause, Stark, Deng, Fei-Fei, 3dRR 2013)."""

from pathlib import Path
from typing import Any

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError, one_line

ORIGINAL = "cars196"
TORCHVISION = "stanford_cars"
TRAIN_CLASSES = 98

Car = tuple[int, str]  # class from 1, path of the image below the data root


class Cars196(RetrievalDataset):
    """196 models of cars; the first 98 train, the last 98 test.

    The files lie in one of two layouts: ``cars196/`` with ``cars_annos.mat`` and ``car_ims/``; or that of
    torchvision, ``stanford_cars/`` with ``cars_train/``, ``cars_test/``, ``devkit/`` and
    ``cars_test_annos_withlabels.mat``. The published split into training and test images is not used: it has
    every model in both parts.
    """

    name = "cars196"
    title = "Cars-196"
    archives = (
        Archive(f"{ORIGINAL}/car_ims.tgz", md5="d5c8f0aa497503f355e17dc7886c3f14", target=f"{ORIGINAL}/car_ims"),
        Archive(f"{ORIGINAL}/cars_annos.mat", "b407c6086d669747186bd1d764ff9dbc", target=f"{ORIGINAL}/cars_annos.mat"),
    )
    expected = Counts(train_images=8_054, train_classes=98, test_images=8_131, test_classes=98)
    remedy = (
        f"its site is gone, so bring car_ims.tgz and cars_annos.mat, put them into {ORIGINAL}/ below the "
        f"data root and run `lifted data prepare cars196`; or put torchvision's {TORCHVISION}/ there"
    )

    def table(self, root: Path) -> ImageTable:
        """The table; items are paths below the data root."""
        found = self.first(root, f"{ORIGINAL}/cars_annos.mat", f"{TORCHVISION}/devkit")
        names, cars = read_original(root) if found.name == "cars_annos.mat" else read_torchvision(root)
        cars.sort()
        return self.files(
            root,
            items=[path for _, path in cars],
            classes=[names[car - 1] for car, _ in cars],
            splits=["train" if car <= TRAIN_CLASSES else "test" for car, _ in cars],
        )

    def present(self, root: Path) -> bool:
        return super().present(root) or (root / TORCHVISION / "devkit").exists()


def read_original(root: Path) -> tuple[list[str], list[Car]]:
    """Class names and cars by ``cars_annos.mat``, whose paths begin with ``car_ims/``."""
    content = read_mat(root / ORIGINAL / "cars_annos.mat", "annotations", "class_names")
    cars = [(int(a["class"]), f"{ORIGINAL}/{a['relative_im_path']}") for a in content["annotations"]]
    return [str(name) for name in content["class_names"]], cars


def read_torchvision(root: Path) -> tuple[list[str], list[Car]]:
    """Class names and cars by the three files of torchvision's layout."""
    folder = root / TORCHVISION
    cars: list[Car] = []
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        annotations = read_mat(folder / file, "annotations")["annotations"]
        cars += [(int(a["class"]), f"{TORCHVISION}/cars_{part}/{a['fname']}") for a in annotations]
    names = read_mat(folder / "devkit" / "cars_meta.mat", "class_names")["class_names"]
    return [str(name) for name in names], cars


def read_mat(path: Path, *variables: str) -> dict[str, Any]:
    """The named variables of a Matlab file.

    Raises:
        UserError: if the file is missing, damaged, or lacks one.
    """
    from scipy.io import loadmat  # takes a moment to import

    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
        return {name: content[name] for name in variables}
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise UserError(f"{path}: cannot be read ({one_line(error)}); is it the original file?") from error
