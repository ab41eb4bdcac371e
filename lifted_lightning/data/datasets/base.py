"""What all data sets share: the data root, archives, checks, and tables of files."""

import hashlib
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lifted_lightning.data.datasets.download import Archive, fetch_and_unpack
from lifted_lightning.data.images import FileReader
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError, counted, one_line

if TYPE_CHECKING:
    import pandas


# What an image is for. A query may be in the gallery too, where others find it and it is not its own answer.
SPLITS = ("train", "val", "test", "query", "gallery", "query+gallery")
QUERIES, GALLERIES = ("query", "query+gallery"), ("gallery", "query+gallery")


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds data sets: as given, else the environment's LIFTED_DATA_DIR, else ``data``."""
    return Path(root or os.environ.get("LIFTED_DATA_DIR") or "data").expanduser()


@dataclass(frozen=True)
class Counts:
    """How many images and classes a data set has."""

    train_images: int
    train_classes: int
    test_images: int
    test_classes: int
    query_images: int = 0
    gallery_images: int = 0
    validation_images: int = 0
    validation_classes: int = 0

    @classmethod
    def of(cls, table: ImageTable) -> "Counts":
        """The counts of a table."""
        parts = (table.train, table.test, table.query, table.gallery, table.validation)
        train, test, query, gallery, validation = (
            (0, 0) if rows is None else (len(rows), len(np.unique(table.labels[rows]))) for rows in parts
        )
        return cls(*train, *test, query[0], gallery[0], *validation)

    def __str__(self) -> str:
        there = {key.replace("_classes", " class").replace("_images", " image"): n for key, n in asdict(self).items()}
        return ", ".join(counted(number, what) for what, number in there.items() if number)


class RetrievalDataset(ABC):
    """Images of many classes, some of which train and the others test.

    A subclass is one file: the names below, and ``table``. Its constructor takes the data set's own options, which the
    command line then offers.

    Attributes:
        name: as results and caches call it, and as ``lifted data`` knows it.
        title: its full name, for people.
        archives: the files it is published as.
        expected: the counts it must have, None where that depends on the user's files.
        remedy: what to do if it is not there.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    archives: ClassVar[tuple[Archive, ...]] = ()
    expected: ClassVar[Counts | None] = None
    remedy: ClassVar[str] = ""

    @abstractmethod
    def table(self, root: Path) -> ImageTable:
        """The table of the images below the data root.

        Raises:
            UserError: saying what was looked for and where, and how to get it; or what is wrong with it.
        """

    def present(self, root: Path) -> bool:
        """Whether the files seem to be there; ``table`` looks closely."""
        return all((root / archive.target).exists() for archive in self.archives)

    def prepare(self, root: Path) -> None:
        """Download and unpack what is missing below the data root, where a lawful source is known.

        Raises:
            UserError: if that cannot be done, saying which files to put where.
        """
        if self.present(root):
            return
        if not self.archives:
            raise UserError(f"{self.title} is not below {root}: {self.remedy}")
        for archive in self.archives:
            if not (root / archive.target).exists():
                fetch_and_unpack(archive, root, self.remedy)

    def first(self, root: Path, *paths: str) -> Path:
        """The first of these paths below the data root that exists.

        Raises:
            UserError: if none does, saying what was looked for and how to get it.
        """
        for path in paths:
            if (root / path).exists():
                return root / path
        raise UserError(
            f"{self.title} not found: looked for {' or '.join(paths)} below {root.absolute()}"
            f"{'' if root.is_dir() else ' (which does not exist)'}; {self.remedy}; or set the data root, "
            "--data.root or LIFTED_DATA_DIR"
        )

    def files(
        self,
        base: Path,
        images: Sequence[tuple[str, str, str]],
        name: str | None = None,
        cameras: Sequence[str] | None = None,
    ) -> ImageTable:
        """The checked table of image files.

        Args:
            base: the folder that the images' paths are relative to.
            images: of each its path, the name of its class, and one of ``SPLITS``. Label order is the order of the
                classes' first appearance.
            name: of the table, where it is not the class's own.
            cameras: of each the name of its camera, see ``ImageTable``.

        Raises:
            UserError: if the counts are not the expected ones, a file is missing, or ``ImageTable`` refuses it.
        """
        items, classes, splits = ([image[part] for image in images] for part in range(3))
        labels = {name: label for label, name in enumerate(dict.fromkeys(classes))}
        split = np.array(splits, dtype=object)
        train, validation, query, gallery = (
            np.flatnonzero(np.isin(split, parts)) for parts in (["train"], ["val"], QUERIES, GALLERIES)
        )
        table = ImageTable(
            name=name or self.name,
            labels=np.array([labels[name] for name in classes], dtype=np.int64),
            class_names=list(labels),
            train=train,
            test=np.flatnonzero(~np.isin(split, ["train", "val"])),
            items=items,
            reader=FileReader(base),
            key=f"{self.name}-{content_digest(self.title, base, items)}",
            query=query if len(query) else None,
            gallery=gallery if len(query) else None,
            validation=validation if len(validation) else None,
            cameras=None if cameras is None else np.unique(cameras, return_inverse=True)[1].astype(np.int64),
        )
        found = Counts.of(table)
        if self.expected is not None and found != self.expected:
            raise UserError(
                f"{self.title}: found {found}; it must be {self.expected}. The files are incomplete or of "
                f"another version; move them away, then {self.remedy}"
            )
        return table


def content_digest(title: str, base: Path, items: Sequence[str]) -> str:
    """A digest of the items with the files' sizes and times of change, by which caches see a changed source.

    Raises:
        UserError: if a file is missing.
    """
    digest = hashlib.sha256()
    missing = []
    folder = str(base)  # joining strings is several times as fast as joining paths
    for item in items:
        try:
            stat = os.stat(os.path.join(folder, item))
        except OSError:
            missing.append(item)
            continue
        digest.update(f"{item}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
    if missing:
        raise UserError(
            f"{title}: {len(missing)} of {len(items)} listed images are missing, for example "
            f"{base / missing[0]}; unpack the files again"
        )
    return digest.hexdigest()[:24]


def read_columns(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), **options: Any
) -> "pandas.DataFrame":
    """These columns of a text file, all as text: ``001``, ``NA`` and ``True`` stay what they are, empty is "".

    Args:
        path: the file, in UTF-8.
        columns: their names; more than these do no harm.
        optional: names of further columns, which are read if they are there.
        options: of ``pandas.read_csv``, which see.

    Raises:
        UserError: if the file is missing, no text, no table, or lacks a column.
    """
    import pandas

    settings = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "index_col": False, **options}
    try:
        with warnings.catch_warnings(action="error", category=pandas.errors.ParserWarning):  # too many fields
            frame = pandas.read_csv(path, **settings).rename(columns=str.strip)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to the data set") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from error
    except pandas.errors.ParserWarning as error:
        raise UserError(f"{path}: lines have more fields than the header; name all columns there") from error
    except (ValueError, OSError) as error:  # pandas' own are ValueErrors
        raise UserError(f"{path}: cannot be read as a table ({one_line(error)})") from error
    return text_columns(frame, columns, path, optional)


def text_columns(
    frame: "pandas.DataFrame", names: Sequence[str], path: Path, optional: Sequence[str] = ()
) -> "pandas.DataFrame":
    """These columns of a table, and those of the optional ones that it has, as text without space around it.

    Raises:
        UserError: naming the columns that the table lacks.
    """
    missing = [name for name in names if name not in frame]
    if missing:
        found = ", ".join(map(str, frame)) or "none"
        raise UserError(f"{path}: no column {', '.join(missing)} (found: {found}); it needs {', '.join(names)}")
    frame = frame[[*names, *(name for name in optional if name in frame)]]
    return frame.astype("string").fillna("").apply(lambda column: column.str.strip())
