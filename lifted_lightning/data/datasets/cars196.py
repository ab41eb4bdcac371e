"""Cars-196: makes and models of cars (Krause, Stark, Deng, Fei-Fei, 3dRR 2013)."""

from pathlib import Path
from typing import Any

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset
from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError, one_line

ORIGINAL = "cars196"
TORCHVISION = "stanford_cars"
# Of each layout the files of annotations, with what these call an image's path and the folder that it starts from.
ANNOTATIONS = {
    ORIGINAL: [("cars_annos.mat", "relative_im_path", "")],
    TORCHVISION: [
        ("devkit/cars_train_annos.mat", "fname", "cars_train/"),
        ("cars_test_annos_withlabels.mat", "fname", "cars_test/"),
    ],
}
CLASS_NAMES = {ORIGINAL: "cars_annos.mat", TORCHVISION: "devkit/cars_meta.mat"}
TRAIN_CLASSES = 98


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
        folder = self.first(root, f"{ORIGINAL}/cars_annos.mat", f"{TORCHVISION}/devkit").parent
        names = read_mat(folder / CLASS_NAMES[folder.name], "class_names")
        cars = sorted(
            (int(car["class"]), f"{folder.name}/{start}{car[path]}")
            for file, path, start in ANNOTATIONS[folder.name]
            for car in read_mat(folder / file, "annotations")
        )
        # Classes are counted from 1.
        images = [(path, str(names[car - 1]), "train" if car <= TRAIN_CLASSES else "test") for car, path in cars]
        return self.files(root, images)

    def present(self, root: Path) -> bool:
        return super().present(root) or (root / TORCHVISION / "devkit").exists()


def read_mat(path: Path, variable: str) -> Any:
    """A variable of a Matlab file.

    Raises:
        UserError: if the file is missing, damaged, or lacks it.
    """
    from scipy.io import loadmat  # takes a moment to import

    try:
        return loadmat(path, squeeze_me=True, variable_names=variable)[variable]
    except Exception as error:  # scipy raises nearly anything on damaged files
        raise UserError(f"{path}: cannot be read ({one_line(error)}); is it the original file?") from error
