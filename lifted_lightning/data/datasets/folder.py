"""A person's own folder of class folders."""

import os
from pathlib import Path

from lifted_lightning.data.datasets.base import RetrievalDataset, visible
from lifted_lightning.data.reading import EXTENSIONS
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

LEFT_BY_SYSTEMS = frozenset(("thumbs.db", "desktop.ini"))


class ImageFolder(RetrievalDataset):
    """One folder a class, named after it, with its images directly in it.

    If the folder has ``train`` and ``test`` folders that hold class folders, these say which classes train
    and which test. Else classes are sorted by name and the last ``test_share`` of them test, as the field
    does with CUB and Cars.

    Hidden files are passed over, and so are files beside the class folders that are no images. Within a class
    folder, a file whose ending is not an image's is an error that names it. Whether a file can be decoded is
    seen when it is: by the pixel cache, or by ``lifted data verify FOLDER``.

    Args:
        path: the folder, as it is or below the data root.
        test_share: share of the classes that test, in (0, 1).
    """

    name = "folder"
    title = "ImageFolder"
    remedy = "give a folder that holds one folder of images for each class"

    def __init__(self, path: str, test_share: float = 0.5) -> None:
        if not 0 < test_share < 1:
            raise UserError(f"test_share {test_share}: give the share of classes that test, between 0 and 1")
        self.path = path
        self.test_share = test_share

    def table(self, root: Path) -> ImageTable:
        """The table, named after the folder; items are paths below it."""
        base = own_path(self.path, root)
        if not base.is_dir():
            raise UserError(f"{self.path}: no such folder, here or below {root.absolute()}; {self.remedy}")
        parts = [base / part for part in ("train", "test")]
        if all(part.is_dir() and any(e.is_dir() for e in visible(part)) for part in parts):
            train, test = (_classes(part) for part in parts)
        else:
            classes = _classes(base)
            count = min(max(round(self.test_share * len(classes)), 1), len(classes) - 1)
            train, test = classes[:-count], classes[-count:]
        if len(train) < 2 or len(test) < 2:
            raise UserError(
                f"{base}: {len(train)} class folders train and {len(test)} test; at least 2 each are needed"
            )
        items, names, splits = [], [], []
        for split, folders in (("train", train), ("test", test)):
            for folder in folders:
                images = _images(folder)
                items += [str(image.relative_to(base)) for image in images]
                names += [folder.name] * len(images)
                splits += [split] * len(images)
        return self.files(base, items, names, splits, name=base.resolve().name)


def own_path(path: str, root: Path) -> Path:
    """A path that the user gave: as it is, if that exists, else below the data root."""
    given = Path(path).expanduser()
    return given if given.exists() else root / given


def _classes(base: Path) -> list[Path]:
    entries = visible(base)
    stray = next((e.path for e in entries if e.is_file() and _is_image(e)), None)
    if stray:
        raise UserError(f"{stray}: lies beside the class folders; move it into the folder of its class")
    folders = [Path(e) for e in entries if e.is_dir()]
    if not folders:
        raise UserError(
            f"{base}: has no class folders; put the images of each class into a folder of its own"
        )
    return folders


def _images(folder: Path) -> list[Path]:
    """The images of one class.

    Raises:
        UserError: if there are fewer than two, or there is anything but images.
    """
    entries = [e for e in visible(folder) if e.name.lower() not in LEFT_BY_SYSTEMS]
    for entry in entries:
        if entry.is_dir():
            raise UserError(f"{entry.path}: a folder in a class folder; images lie directly in their class's")
        if not _is_image(entry):
            raise UserError(f"{entry.path}: is no image (by its ending); move it out of the class folder")
    if len(entries) < 2:
        holds = "one image" if entries else "no images"
        raise UserError(f"{folder}: holds {holds}; a class needs at least two, add some or remove the folder")
    return [Path(e) for e in entries]


def _is_image(entry: os.DirEntry[str]) -> bool:
    return os.path.splitext(entry.name)[1].lower() in EXTENSIONS
