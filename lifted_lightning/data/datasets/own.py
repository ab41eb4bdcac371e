"""A person's own folder of class folders."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifted_lightning.data.datasets.base import RetrievalDataset, visible
from lifted_lightning.data.images import EXTENSIONS
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
        raise UserError(f"{base}: has no class folders; put the images of each class into a folder of its own")
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


COLUMNS = ("path", "label", "split")


SPLITS = ("train", "test", "query", "gallery")


class TableFile(RetrievalDataset):
    """Images listed in a CSV or Parquet file with the columns ``path``, ``label`` and ``split``.

    ``split`` is ``train`` or ``test``; or ``train``, ``query`` and ``gallery``, where queries are sought in
    the gallery only. Paths are relative to the file's folder, or absolute. Labels are any text or numbers. A
    CSV file has a header line and is separated by commas, semicolons or tabs. More columns do no harm.

    Args:
        path: the file, as it is or below the data root; ``.parquet``, or else read as CSV.
    """

    name = "table"
    title = "TableFile"
    remedy = "give a CSV or Parquet file with the columns path, label, split"

    def __init__(self, path: str) -> None:
        self.path = path

    def table(self, root: Path) -> ImageTable:
        """The table, named after the file; items are paths below the file's folder where they are in it."""
        file = own_path(self.path, root)
        if not file.is_file():
            raise UserError(f"{self.path}: no such file, here or below {root.absolute()}; {self.remedy}")
        lines = read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else read_csv(file)
        base = file.parent
        lines = [(number, _item(path, base), label, split) for number, path, label, split in lines]
        check_lines(file, lines)
        lines.sort(key=lambda line: line[2])
        _, items, labels, splits = zip(*lines, strict=True)
        return self.files(base, items, labels, splits, name=file.stem)


Line = tuple[int, str, str, str]  # its number, path, label, split


def read_csv(file: Path) -> list[Line]:
    """The lines of a CSV file.

    Raises:
        UserError: if it is no text, or lacks a column.
    """
    with file.open(encoding="utf-8-sig", newline="") as stream:
        try:
            header = stream.readline()
            delimiter = max(",;\t", key=header.count)
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
            check_columns(file, names)
            # Fields that a short line lacks are then empty, too.
            reader = csv.DictReader(stream, names, restval="", delimiter=delimiter, skipinitialspace=True)
            return [
                (reader.line_num + 1, line["path"].strip(), line["label"].strip(), line["split"].strip())
                for line in reader
            ]
        except UnicodeDecodeError as error:
            raise UserError(f"{file}: is not UTF-8 text; save it as CSV in UTF-8") from error
        except csv.Error as error:
            raise UserError(f"{file}: is no CSV ({error})") from error


def read_parquet(file: Path) -> list[Line]:
    """The rows of a Parquet file, counted from 1.

    Raises:
        UserError: if it is no Parquet, or lacks a column, or pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise UserError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow, or save it as CSV") from error
    try:
        content = parquet.ParquetFile(file)
        check_columns(file, content.schema_arrow.names)
        columns = content.read(columns=list(COLUMNS)).to_pydict()
    except (ArrowException, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({' '.join(str(error).split())[:150]})") from error
    rows = zip(*(map(_text, columns[column]) for column in COLUMNS), strict=True)
    return [(number, *row) for number, row in enumerate(rows, start=1)]


def _text(value: Any) -> str:
    missing = value is None or value != value  # NaN differs from itself
    return "" if missing else str(value).strip()


def check_columns(file: Path, names: Sequence[str]) -> None:
    """All columns are there.

    Raises:
        UserError: naming those that are not.
    """
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        found = ", ".join(names) or "none"
        raise UserError(f"{file}: no column {', '.join(missing)} (found: {found}); it needs {', '.join(COLUMNS)}")


def check_lines(file: Path, lines: Sequence[Line]) -> None:
    """No line lacks a value, no class is too small to retrieve from, and each query has an answer.

    Raises:
        UserError: naming the line, or the label.
    """
    images: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    for number, path, label, split in lines:
        for column, value in zip(COLUMNS, (path, label, split), strict=True):
            if not value:
                raise UserError(f"{file}: line {number} has no {column}")
        if split not in SPLITS:
            raise UserError(f"{file}: line {number} has the split {split[:40]!r}; give one of {', '.join(SPLITS)}")
        images[split][label] = images[split].get(label, 0) + 1
    train, test, query, gallery = (images[split] for split in SPLITS)
    if not train or not (test or (query and gallery)) or (test and (query or gallery)):
        found = ", ".join(split for split in SPLITS if images[split]) or "none"
        raise UserError(f"{file}: has the splits {found}; it needs train and test, or train, query and gallery")
    for split, classes in (("train", train), ("test", test)):
        single = next((label for label, count in classes.items() if count < 2), None)
        if single:
            raise UserError(f"{file}: label {single!r} has one image in {split}; a class needs at least two")
    unanswered = next((label for label in query if label not in gallery), None)
    if unanswered:
        raise UserError(f"{file}: label {unanswered!r} has queries and no gallery image")


def _item(path: str, base: Path) -> str:
    """The path relative to the base where it is in it, so that results tell nothing of the machine."""
    if not path:
        return path
    item = os.path.normpath(path)
    if os.path.isabs(item) and Path(item).is_relative_to(base.absolute()):
        item = os.path.relpath(item, base.absolute())
    return item
