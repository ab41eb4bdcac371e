"""What all data sets share: the data root, archives, checks, and tables of files."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from lifted_lightning.data.datasets.download import Archive
from lifted_lightning.data.images import FileReader
from lifted_lightning.data.table import ImageTable, IntArray
from lifted_lightning.errors import UserError


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

    @classmethod
    def of(cls, table: ImageTable) -> "Counts":
        """The counts of a table."""
        return cls(
            train_images=len(table.train),
            train_classes=len(np.unique(table.labels[table.train])),
            test_images=len(table.test),
            test_classes=len(np.unique(table.labels[table.test])),
            query_images=0 if table.query is None else len(table.query),
            gallery_images=0 if table.gallery is None else len(table.gallery),
        )

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in asdict(self).items() if value)


class RetrievalDataset(ABC):
    """Images of many classes, some of which train and the others test.

    A subclass is one file: the names below, and ``table``. Its constructor takes the data set's own options,
    which the command line then offers.

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
        from lifted_lightning.data.datasets.download import fetch_and_unpack

        for archive in self.archives:
            if not (root / archive.target).exists():
                fetch_and_unpack(archive, root, self.remedy)

    def not_found(self, root: Path, *paths: str) -> UserError:
        """The error that says what was looked for below the data root, and how to get it."""
        return UserError(
            f"{self.title} not found: looked for {' or '.join(paths)} below {root.absolute()}"
            f"{'' if root.is_dir() else ' (which does not exist)'}; {self.remedy}; or set the data root, "
            "--data.root or LIFTED_DATA_DIR"
        )

    def first(self, root: Path, *paths: str) -> Path:
        """The first of these paths below the data root that exists.

        Raises:
            UserError: if none does.
        """
        for path in paths:
            if (root / path).exists():
                return root / path
        raise self.not_found(root, *paths)

    def files(
        self,
        base: Path,
        items: Sequence[str],
        classes: Sequence[str],
        splits: Sequence[str],
        name: str | None = None,
    ) -> ImageTable:
        """The checked table of image files.

        Args:
            base: the folder that the items are relative to.
            items: N paths of images.
            classes: N names of their classes; label order is the order of first appearance.
            splits: N times ``train``, ``test``, ``query`` or ``gallery``; the last two are of the test rows.
            name: of the table, where it is not the class's own.

        Raises:
            UserError: if the counts are not the expected ones, a class is both train and test, an item comes
                twice, or a file is missing.
        """
        names = list(dict.fromkeys(classes))
        index = {name: label for label, name in enumerate(names)}
        labels = np.array([index[name] for name in classes], dtype=np.int64)
        split = np.array(splits, dtype=object)
        train, query, gallery = (np.flatnonzero(split == part) for part in ("train", "query", "gallery"))
        test = np.flatnonzero(split != "train")
        self.check_split(items, labels, names, train, test)
        table = ImageTable(
            name=name or self.name,
            labels=labels,
            class_names=names,
            train=train,
            test=test,
            items=items,
            reader=FileReader(base),
            key=f"{self.name}-{content_digest(self.title, base, items)}",
            query=query if len(query) else None,
            gallery=gallery if len(query) else None,
        )
        return self.checked(table)

    def check_split(
        self, items: Sequence[str], labels: IntArray, names: Sequence[str], train: IntArray, test: IntArray
    ) -> None:
        """No class both trains and tests, and no image comes twice."""
        shared = np.intersect1d(labels[train], labels[test])
        if len(shared):
            raise UserError(
                f"{self.title}: {len(shared)} classes both train and test, for example {names[shared[0]]}: "
                "test classes must not be seen in training"
            )
        if len(set(items)) < len(items):
            seen: set[str] = set()
            twice = next(item for item in items if item in seen or seen.add(item))  # type: ignore[func-returns-value]
            raise UserError(f"{self.title}: {twice} is listed twice; keep one")

    def checked(self, table: ImageTable) -> ImageTable:
        """The table itself.

        Raises:
            UserError: if its counts are not the expected ones.
        """
        found = Counts.of(table)
        if self.expected is not None and found != self.expected:
            raise UserError(
                f"{self.title}: found {found}; it must be {self.expected}. The files are incomplete or of "
                f"another version; move them away, then {self.remedy}"
            )
        return table


def visible(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's entries by name, without hidden ones, such as the ``._*`` that macOS leaves in archives."""
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


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


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, whatever its line ends.

    Raises:
        UserError: if the file is missing or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; it belongs to the data set") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text") from error
    return [line for line in text.splitlines() if line.strip()]


def read_columns(path: Path, count: int) -> list[list[str]]:
    """The lines of a text file as columns between white space; the last one may hold spaces.

    Raises:
        UserError: naming a line with fewer columns.
    """
    lines = [line.split(maxsplit=count - 1) for line in read_lines(path)]
    for number, line in enumerate(lines, start=1):
        if len(line) < count:
            raise UserError(f"{path}: line {number} of its text has {len(line)} columns instead of {count}")
    return [[column.rstrip() for column in line] for line in lines]


def read_table(path: Path, header: str) -> list[list[str]]:
    """The columns below a header line.

    Raises:
        UserError: if the header is another one.
    """
    names = header.split()
    lines = read_columns(path, len(names))
    if not lines or lines[0] != names:
        raise UserError(f"{path}: its header line is not {header!r}; is it the original file?")
    return lines[1:]


def whole_number(text: str, path: Path) -> int:
    """A number of a metadata file.

    Raises:
        UserError: if it is none.
    """
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"{path}: {text[:40]!r} is no number; is it the original file?") from error
