"""What everything else takes for granted of a data set: its table, its split, and images that can be read."""

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lifted_lightning.data.datasets.base import Counts, RetrievalDataset, data_root
from lifted_lightning.data.pixels import Decoding
from lifted_lightning.data.table import ImageTable, with_pairs
from lifted_lightning.errors import UserError, one_line
from lifted_lightning.testing.findings import Answer, ContractError, Findings

IMAGES = 32  # that are read


def check_dataset(dataset: RetrievalDataset, root: str | Path | None = None) -> Findings:
    """Ask a data set all that the rest of the package expects of one.

    Args:
        dataset: with its own options.
        root: the data root; None: ``LIFTED_DATA_DIR``, or ``data``.

    Returns:
        A finding for each question; one only where there is no table.
    """
    tried = _Dataset(dataset, data_root(root))
    findings = Findings(type(dataset).__name__)
    if findings.ask("has a table of the right counts, whose parts share no class", tried.has_table):
        findings.ask("labels are dense, classes named, rows ascending", tried.is_in_order)
        findings.ask("each query has an answer, each training class a pair", tried.has_pairs)
        findings.ask("is the same table when it is made again", tried.repeats)
        findings.ask("a sample of images can be read, in other processes too", tried.reads)
    return findings


@dataclass
class _Dataset:
    """A data set and its table."""

    dataset: RetrievalDataset
    root: Path
    table: ImageTable = field(init=False)

    def has_table(self) -> str:
        if not (getattr(self.dataset, "name", "") and getattr(self.dataset, "title", "")):
            raise ContractError("has no name or no title, which results and messages call it by")
        self.table = self.dataset.table(self.root)
        if self.dataset.expected not in (None, counts := Counts.of(self.table)):
            raise ContractError(f"has {counts}; expected are {self.dataset.expected}")
        return str(counts)

    def is_in_order(self) -> str:
        table, names = self.table, self.table.class_names
        if table.labels.dtype != np.int64:
            raise ContractError(f"labels are {table.labels.dtype}, not int64")
        if len(empty := np.setdiff1d(np.arange(len(names)), table.labels)):
            raise ContractError(f"{len(empty)} of {len(names)} classes have no image, for example {names[empty[0]]}")
        if len(set(names)) < len(names):
            raise ContractError(f"{len(names)} classes have {len(set(names))} names")
        used = np.zeros(len(table), dtype=bool)
        for part in ("train", "validation", "test", "query", "gallery"):
            rows = getattr(table, part)
            if rows is None:
                continue
            if not len(rows) or rows[0] < 0 or rows[-1] >= len(table) or (np.diff(rows) <= 0).any():
                raise ContractError(f"the rows of {part} are none, not ascending, or not within 0..{len(table) - 1}")
            if part in ("query", "gallery") and len(np.setdiff1d(rows, table.test)):
                raise ContractError(f"{part} has rows that are not in test")
            used[rows] = True
        return f"{len(names)} classes; {(~used).sum()} of {len(table)} images are in no part"

    def has_pairs(self) -> Answer:
        names = with_pairs(self.table, leave_out=True)[1]
        left = f"{len(names)} classes have a single image, or a query without an answer, for example {names[:1]}"
        if names and self.dataset.expected is None:
            raise ContractError(f"{left}: add images, or leave them out with --data.single_images=leave_out")
        return ("told", f"{left}, as published") if names else None

    def repeats(self) -> None:
        again = self.dataset.table(self.root)
        for name in ("key", "name", "items", "labels", "class_names", "train", "test"):
            if not np.array_equal(getattr(again, name), getattr(self.table, name)):
                raise ContractError(f"its {name} is another, so that caches and resumed runs would not know it again")

    def reads(self) -> str:
        elsewhere = replace(self.table, reader=pickle.loads(pickle.dumps(self.table.reader)))
        sizes: list[int] = []
        for row in np.unique(np.linspace(0, len(self.table) - 1, IMAGES, dtype=int)).tolist():
            image, again = (Decoding(table).image(row) for table in (self.table, elsewhere))
            if isinstance(image, UserError) or isinstance(again, UserError):
                raise ContractError(one_line(image if isinstance(image, UserError) else again))
            if image.size != again.size or image.tobytes() != again.tobytes():
                raise ContractError(f"{self.table.items[row]}: is another image when it is read again")
            sizes += image.size
        return f"with sides of {min(sizes)} to {max(sizes)} pixels"
