"""A person's own list of images: a CSV or Parquet file of paths, labels and splits."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifted_lightning.data.datasets.base import RetrievalDataset
from lifted_lightning.data.datasets.folder import own_path
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

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
        raise UserError(
            f"{file}: reading Parquet needs pyarrow: pip install pyarrow, or save it as CSV"
        ) from error
    try:
        content = parquet.ParquetFile(file)
        check_columns(file, content.schema_arrow.names)
        columns = content.read(columns=list(COLUMNS)).to_pydict()
    except (ArrowException, OSError) as error:
        raise UserError(
            f"{file}: cannot be read as Parquet ({' '.join(str(error).split())[:150]})"
        ) from error
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
        raise UserError(
            f"{file}: no column {', '.join(missing)} (found: {found}); it needs {', '.join(COLUMNS)}"
        )


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
            raise UserError(
                f"{file}: line {number} has the split {split[:40]!r}; give one of {', '.join(SPLITS)}"
            )
        images[split][label] = images[split].get(label, 0) + 1
    train, test, query, gallery = (images[split] for split in SPLITS)
    if not train or not (test or (query and gallery)) or (test and (query or gallery)):
        found = ", ".join(split for split in SPLITS if images[split]) or "none"
        raise UserError(
            f"{file}: has the splits {found}; it needs train and test, or train, query and gallery"
        )
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
