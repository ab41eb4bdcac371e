"""`lifted data`: list, prepare and verify data sets."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lifted_lightning.data.datasets import RetrievalDataset

NAMED = 20  # unreadable images that an error names


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    from lifted_lightning.data.datasets import data_root

    root = data_root(options.root)
    if options.action == "list":
        list_datasets(root)
    elif options.action == "prepare":
        prepare(options.name, root)
    else:
        verify(options.name, root)
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of `lifted data`."""
    result = CommandParser(prog="lifted data", description="List, prepare and verify data sets.")
    actions = result.add_subparsers(dest="action", required=True, metavar="ACTION")
    texts = {
        "list": "all data sets, and which of them are there",
        "prepare": "download, check and unpack a data set, or say which files to put where",
        "verify": "check a data set's counts and split, decode every image, and check its caches of decoded images",
    }
    for action, text in texts.items():
        sub = actions.add_parser(action, help=text, description=text[0].upper() + text[1:] + ".")
        if action != "list":
            own = ", or your own folder of class folders, CSV or Parquet file" if action == "verify" else ""
            sub.add_argument("name", help=f"a data set's name, see `lifted data list`{own}")
        sub.add_argument("--root", help="the data root; by default LIFTED_DATA_DIR, else ./data")
    return result


def list_datasets(root: Path) -> None:
    """Print each data set's name, its counts, and whether it is below the data root."""
    from rich.console import Console
    from rich.table import Table

    from lifted_lightning.data.datasets import published

    table = Table(title=f"data sets; data root {root}", box=None, title_justify="left", pad_edge=False)
    for column in ("name", "data set", "train images (classes)", "test images (classes)", "there"):
        table.add_column(column, overflow="fold")
    for name, dataset in published().items():
        counts = dataset.expected
        train = f"{counts.train_images:,} ({counts.train_classes:,})" if counts else ""
        test = f"{counts.test_images:,} ({counts.test_classes:,})" if counts else ""
        table.add_row(name, dataset.title, train, test, "yes" if dataset.present(root) else "no")
    Console(markup=False).print(table)
    print("your own images: --data.dataset=ImageFolder or TableFile, with --data.dataset.path=...")


def prepare(name: str, root: Path) -> None:
    """Download, check and unpack a data set, then check its counts and split.

    Raises:
        UserError: if there is no such data set, or its files must be put in place first: which, and where.
    """
    from lifted_lightning.data.datasets.base import Counts

    dataset = named(name)
    dataset.prepare(root)
    print(f"{dataset.title}: {Counts.of(dataset.table(root))}; ready below {root}")


def verify(name: str, root: Path) -> None:
    """Check a data set's counts and split, decode every image, and check its pixel caches; damaged ones are rebuilt.

    Args:
        name: of a data set, or the path of an own folder of class folders, or of a CSV or Parquet file.
        root: the data root.

    Raises:
        UserError: if anything is wrong; it names the images that cannot be decoded.
    """
    from lifted_lightning.data.datasets.base import Counts
    from lifted_lightning.data.pixels import unreadable, verified_caches
    from lifted_lightning.data.table import with_pairs

    dataset = named(name, root)
    table = dataset.table(root)
    for pixels in verified_caches(table):
        print(f"{pixels.path}: {len(pixels)} decoded images, as they were written")
    broken = [why for _, why in unreadable(table)]
    if broken:
        shown = broken[:NAMED] + [f"and {len(broken) - NAMED} more"] * (len(broken) > NAMED)
        raise UserError(f"{table.name}: {len(broken)} of {len(table)} images cannot be read: {'; '.join(shown)}")
    if dataset.expected is None:
        with_pairs(table)
    print(f"{table.name}: {Counts.of(table)}; all classes of the test are unseen, all images can be read")


def named(name: str, root: Path | None = None) -> "RetrievalDataset":
    """The data set of this name, or of this class name, in any case; or the own folder or file of this path.

    Args:
        name: of the data set, or the path.
        root: where paths may start from; None for published sets alone.

    Raises:
        UserError: if there is none, with the nearest name.
    """
    from lifted_lightning.data.datasets import ImageFolder, TableFile, published
    from lifted_lightning.data.datasets.own import own_path

    known = published()
    names = {alias.lower(): key for key, found in known.items() for alias in (key, type(found).__name__)}
    if name.lower() in names:
        return known[names[name.lower()]]
    if root is not None and (path := own_path(name, root)).exists():
        return ImageFolder(name) if path.is_dir() else TableFile(name)
    remedy = did_you_mean(name.lower(), names, "choose " + ", ".join(known))
    raise UserError(f"no data set {name!r}; {remedy}")
