"""A person's own images: a folder of class folders, or a table of paths and labels."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lifted_lightning.data.datasets.base import GALLERIES, QUERIES, SPLITS, RetrievalDataset, read_columns, text_columns
from lifted_lightning.data.images import EXTENSIONS
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError, counted, listed, one_line

if TYPE_CHECKING:
    import pandas

LEFT_BY_SYSTEMS = frozenset(("thumbs.db", "desktop.ini"))


class ImageFolder(RetrievalDataset):
    """One folder a class, named after it, with its images directly in it.

    If the folder has ``train`` and ``test`` folders that hold class folders, these say which classes train and which
    test; and a ``val`` beside them, which validate, in place of ``data.validation_share``. Else classes are sorted
    by name and the last ``test_share`` of them test, as the field does with CUB and Cars.

    Hidden files are passed over, and so are files beside the class folders that are no images. Within the class
    folders, files whose endings are not an image's are an error that names them. Whether a file can be decoded is seen
    when it is: by the pixel cache, or by ``lifted data verify FOLDER``.

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
        if _holds_folders(base / "train"):
            parts = [path.name for path in _visible(base) if _holds_folders(path) or path.name == "val"]
            if {*parts} not in ({"train", "test"}, {"train", "val", "test"}):
                there = ", ".join(parts)
                raise UserError(
                    f"{base}: has class folders in {there}; they must be in train, test and, if wanted, val"
                )
            folders = {part: _classes(base / part) for part in parts}
        else:
            classes = _classes(base)
            count = min(max(round(self.test_share * len(classes)), 1), len(classes) - 1)
            folders = {"train": classes[:-count], "test": classes[-count:]}
        if len(folders["train"]) < 2 or len(folders["test"]) < 2:
            counts = f"{len(folders['train'])} class folders train and {len(folders['test'])} test"
            raise UserError(f"{base}: {counts}; at least 2 each are needed")
        images, strays = [], []
        for split in ("train", "val", "test"):
            for folder in folders.get(split, ()):
                held = [path for path in _visible(folder) if path.name.lower() not in LEFT_BY_SYSTEMS]
                strays += [str(path.relative_to(base)) for path in held or [folder] if not _is_image(path)]
                images += [(str(path.relative_to(base)), folder.name, split) for path in held]
        if strays:
            raise UserError(
                f"{base}: {counted(len(strays), 'class folder')} empty, or with what is no image (by its ending): "
                f"{listed(strays)}; move them out"
            )
        return self.files(base, images, name=base.resolve().name)


def own_path(path: str, root: Path) -> Path:
    """A path that the user gave: as it is, if that exists, else below the data root."""
    given = Path(path).expanduser()
    return given if given.exists() else root / given


def _visible(folder: Path) -> list[Path]:
    """What a folder holds, by name, without hidden files, such as the ``._*`` that macOS leaves in archives."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.is_dir()


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and any(map(Path.is_dir, _visible(path)))


def _classes(base: Path) -> list[Path]:
    """The folders of the classes.

    Raises:
        UserError: if there are none, or an image lies beside them.
    """
    folders = []
    for path in _visible(base):
        if path.is_dir():
            folders.append(path)
        elif _is_image(path):
            raise UserError(f"{path}: lies beside the class folders; move it into the folder of its class")
    if not folders:
        raise UserError(f"{base}: has no class folders; put the images of each class into a folder of its own")
    return folders


COLUMNS = ("path", "label", "split")
OPTIONAL = ("camera",)


class TableFile(RetrievalDataset):
    """Images listed in a CSV or Parquet file with the columns ``path``, ``label`` and ``split``.

    ``split`` is ``train`` or ``test``; or ``train``, ``query`` and ``gallery``, where queries are sought in the gallery
    only, and ``query+gallery`` for what is both. ``val`` classes validate, in place of ``data.validation_share``. If
    there is a column ``camera``, gallery images of a query's own class and camera do not count, in validation and test.
    Paths are relative to the file's folder, or absolute. Labels are any text or numbers. A CSV file has a header line
    and is separated by commas, semicolons or tabs. More columns do no harm.

    Args:
        path: the file, as it is or below the data root; ``.parquet``, or else read as CSV.
    """

    name = "table"
    title = "TableFile"
    remedy = "give a CSV or Parquet file with the columns path, label, split and, if wanted, camera"

    def __init__(self, path: str) -> None:
        self.path = path

    def table(self, root: Path) -> ImageTable:
        """The table, named after the file; items are paths below the file's folder where they are in it."""
        file = own_path(self.path, root)
        if not file.is_file():
            raise UserError(f"{self.path}: no such file, here or below {root.absolute()}; {self.remedy}")
        base = file.parent.absolute()
        lines = read_parquet(file) if file.suffix.lower() in (".parquet", ".pq") else read_csv(file)
        check_lines(file, lines)
        lines = lines.sort_values("label", kind="stable")
        items = [_item(path, base) for path in lines["path"]]
        images = list(zip(items, lines["label"], lines["split"], strict=True))
        return self.files(file.parent, images, file.stem, lines.get("camera"))


def read_csv(file: Path) -> "pandas.DataFrame":
    """The columns of a CSV file as text, indexed by the numbers of its lines; empty lines are passed over.

    Raises:
        UserError: if it is no text, no table, or lacks a column.
    """
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        header = stream.readline(1 << 16)
    delimiter = max(",;\t", key=header.count)
    lines = read_columns(file, COLUMNS, OPTIONAL, sep=delimiter, skipinitialspace=True, skip_blank_lines=False)
    lines.index += 2  # the header is line 1
    return lines[(lines != "").any(axis=1)]


def read_parquet(file: Path) -> "pandas.DataFrame":
    """The columns of a Parquet file as text, indexed from 1.

    Raises:
        UserError: if it is no Parquet, or lacks a column, or pyarrow is not installed.
    """
    import pandas

    try:
        from pyarrow import parquet

        content = parquet.ParquetFile(file).read(columns=[*COLUMNS, *OPTIONAL])
    except ImportError as error:
        raise UserError(f"{file}: reading Parquet needs pyarrow: pip install pyarrow, or save it as CSV") from error
    except (ValueError, OSError) as error:
        raise UserError(f"{file}: cannot be read as Parquet ({one_line(error)})") from error
    lines = content.to_pandas(types_mapper=pandas.ArrowDtype, ignore_metadata=True)  # an index is a column, too
    lines.index = pandas.RangeIndex(1, len(lines) + 1)
    return text_columns(lines, COLUMNS, file, OPTIONAL)


def check_lines(file: Path, lines: "pandas.DataFrame") -> None:
    """No line lacks a value, and there is something to train on and to test with.

    Raises:
        UserError: naming the line.
    """
    for column in lines:
        for number in lines.index[lines[column] == ""]:
            raise UserError(f"{file}: line {number} has no {column}")
    for number, split in lines["split"][~lines["split"].isin(SPLITS)].items():
        raise UserError(f"{file}: line {number} has the split {split[:40]!r}; give one of {', '.join(SPLITS)}")
    there = [split for split in SPLITS if (lines["split"] == split).any()]
    tested = {*there} - {"train", "val"}
    apart = "test" not in there and tested.intersection(QUERIES) and tested.intersection(GALLERIES)
    if "train" not in there or not (apart or tested == {"test"}):
        found = ", ".join(there) or "none"
        raise UserError(f"{file}: has the splits {found}; it needs train and test, or train, query and gallery")


def _item(path: str, base: Path) -> str:
    """The path relative to the base where it is in it, so that results tell nothing of the machine."""
    item = os.path.normpath(path)
    return os.path.relpath(item, base) if os.path.isabs(item) and Path(item).is_relative_to(base) else item
