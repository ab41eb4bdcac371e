"""`lifted search`: the nearest images of an index, as a table and as a picture."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.commands.embed import add_device, check_writable
from lifted_lightning.errors import UserError, counted, harmless
from lifted_lightning.runs.embeddings import Embeddings, read_embeddings

if TYPE_CHECKING:
    from lifted_lightning.data.images import UInt8Array
    from lifted_lightning.inference.model import TrainedModel


IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

ROWS, COLUMNS = 50, 20  # queries and neighbours that a picture has room for
SIDE = 128  # pixels of an image there


def parser() -> argparse.ArgumentParser:
    """The options of `lifted search`."""
    result = CommandParser(
        prog="lifted search",
        description="Find the images of an index that are nearest to queries, exactly. A query that is in the "
        "index itself is left out of its own answer.",
    )
    result.add_argument("queries", nargs="+", metavar="QUERY", help="image files")
    result.add_argument("--index", required=True, type=Path, help="a file that lifted embed or lifted predict wrote")
    result.add_argument("--k", type=int, help="how many neighbours of each query; by default 10, or all of fewer")
    result.add_argument("--gallery", type=Path, help="draw queries and neighbours into this PNG")
    result.add_argument("--ckpt", type=Path, help="where the index's checkpoint is now, if it was moved")
    add_device(result)
    return result


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    if options.gallery is not None:
        check_writable(options.gallery, "--gallery")
    queries = options.queries
    index = read_embeddings(options.index)
    itself = np.array([row_of(index, query) for query in queries])
    others = len(index) - bool((itself >= 0).any())
    k = min(10, others) if options.k is None else options.k
    if not 1 <= k <= others:
        raise UserError(f"--k {k}: {options.index} has {others} images to find; give a number from 1 to {others}")
    model = model_of(index, options.index, options.ckpt, options.device)
    distances, rows = nearest_images(index, model, queries, k, itself)
    print_table(index, queries, distances, rows)
    for query in [query for query, row in zip(queries, itself, strict=True) if row >= 0]:
        print(f"{harmless(query)} is in the index itself: left out of its own answer", file=sys.stderr)
    if options.gallery is not None:
        near = distances[:ROWS, :COLUMNS], rows[:ROWS, :COLUMNS]
        draw_answers(options.gallery, options.index.name, index, queries[:ROWS], itself[:ROWS], *near)
        print(f"gallery: {options.gallery}")
    return 0


def row_of(index: Embeddings, query: str) -> int:
    """The row of the index that is the query's own file, -1 if there is none."""
    query = os.path.realpath(query)
    # The file system is asked only where the name alone could be right: an index may have a million.
    named_alike = np.flatnonzero(np.strings.endswith(index.paths, os.path.basename(query)))
    return next((row for row in named_alike.tolist() if os.path.realpath(index.file(row)) == query), -1)


def model_of(index: Embeddings, path: Path, checkpoint: Path | None, device: str) -> "TrainedModel":
    """The model that an index was made with.

    Raises:
        UserError: if its checkpoint is not where it was, or is another one now.
    """
    from lifted_lightning.inference.model import load

    sys.path.insert(0, os.getcwd())  # a network of the user's own
    where = checkpoint or Path(index.folder, index.checkpoint)
    if not where.is_file():
        raise UserError(f"{where}: no such checkpoint, with which {path} was made; say where it is now with --ckpt")
    model = load(where, device)
    if model.sha256 != index.checkpoint_sha256 or model.embedding_size != index.embeddings.shape[1]:
        raise UserError(
            f"{where}: is not the checkpoint that {path} was made with (its content differs); give that one with "
            "--ckpt, or embed the images again"
        )
    return model


def nearest_images(
    index: Embeddings, model: "TrainedModel", queries: Sequence[str], k: int, itself: IntArray
) -> tuple[FloatArray, IntArray]:
    """Distances (Q, k) and rows (Q, k) of the nearest images, nearest first, leaving out rows ``itself`` (Q,)."""
    import torch

    from lifted_lightning.metrics import nearest

    embedded = torch.from_numpy(model.embed(queries)).to(model.device)
    gallery = torch.from_numpy(index.embeddings).to(model.device)
    exclude = torch.from_numpy(itself) if (itself >= 0).any() else None
    distance: Any = index.distance
    distances, rows = nearest(embedded, gallery, k, exclude, distance)
    return distances.cpu().numpy(), rows.cpu().numpy()


def print_table(index: Embeddings, queries: Sequence[str], distances: FloatArray, rows: IntArray) -> None:
    """One line a neighbour; paths come last and are never cut, so that other programs can read them."""
    queries = [harmless(query) for query in queries]
    width = max(len("query"), *map(len, queries))
    print(f"{'query':<{width}}  rank   distance  path")
    for query, near, found in zip(queries, distances, rows, strict=True):
        for rank, (value, row) in enumerate(zip(near, found, strict=True), start=1):
            print(f"{query:<{width}}  {rank:>4}  {value:>9.4g}  {harmless(str(index.paths[row]))}")


def draw_answers(
    path: Path,
    title: str,
    index: Embeddings,
    queries: Sequence[str],
    itself: IntArray,
    distances: FloatArray,
    rows: IntArray,
) -> None:
    """Draw queries with their neighbours.

    A neighbour's frame is green or red if the query is in the index, for then both classes are known; else grey.
    """
    from lifted_lightning.pictures.gallery import RIGHT, UNKNOWN, WRONG, draw_gallery

    labels, own = index.labels[rows], np.where(itself >= 0, index.labels[itself], -1)[:, None]
    files = [[query, *map(index.file, found)] for query, found in zip(queries, rows, strict=True)]
    names = [
        [short_name(query)] + [f"d={d:.3g} {short_name(file)}" for file, d in zip(found, near, strict=True)]
        for (query, *found), near in zip(files, distances, strict=True)
    ]
    draw_gallery(
        path,
        np.array([[_picture(file, index.resize) for file in line] for line in files]),
        names,
        np.where((labels >= 0) & (own >= 0), np.where(labels == own, RIGHT, WRONG), UNKNOWN),
        [f"nearest of {counted(len(index), 'image')}"] * len(files),
        title,
    )


def short_name(path: str) -> str:
    """The last folder and the file's name without ending."""
    return harmless(str(Path(*Path(path).with_suffix("").parts[-2:])))


def _picture(path: str, resize: Any) -> "UInt8Array":
    """(128, 128, 3) pixels of a file in the way that its model resizes; white if it is gone."""
    from lifted_lightning.data.images import image_or_error, read_image, to_pixels

    image = image_or_error(lambda: read_image(path), path, 3)
    if isinstance(image, UserError):
        print(f"warning: {harmless(str(image))}", file=sys.stderr)
        return np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    return to_pixels(image, SIDE, resize)
