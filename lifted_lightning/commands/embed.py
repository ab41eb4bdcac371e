"""`lifted embed`: the embeddings of image files, in one file that can be searched."""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.data.images import EXTENSIONS
from lifted_lightning.errors import UserError, counted, harmless, one_line
from lifted_lightning.files import writing
from lifted_lightning.runs.embeddings import Embeddings

BAR_FROM = 65  # images, more than a batch, from which there is progress to show


def parser() -> argparse.ArgumentParser:
    """The options of `lifted embed`."""
    result = CommandParser(
        prog="lifted embed",
        description="Embed images with a checkpoint, as its evaluation did but always in float32, into a file that "
        "lifted search and numpy.load read. Files that cannot be read are listed, and the others embedded.",
    )
    result.add_argument(
        "images",
        nargs="+",
        metavar="IMAGES",
        help="folders (searched to any depth), image files, or text files (.txt) with one path a line",
    )
    result.add_argument("--ckpt", required=True, type=Path, help="a checkpoint of lifted fit, or an .adapter")
    result.add_argument("--out", type=Path, default=Path("embeddings.npz"), help="the file to write")
    add_device(result)
    return result


def add_device(result: argparse.ArgumentParser) -> None:
    result.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...; by default auto")


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    options = parser().parse_args(arguments)
    check_writable(options.out, "--out")
    images = find_images(options.images)

    from lifted_lightning.inference.model import load

    sys.path.insert(0, os.getcwd())  # a network of the user's own
    model = load(options.ckpt, options.device)
    paths = [path for path, _ in images]
    embeddings = np.empty((len(paths), model.embedding_size), dtype=np.float32)
    from lifted_lightning.data.pixels import with_progress

    steps = model.steps(paths, embeddings)
    shown = (step[1] for step in steps) if len(paths) < BAR_FROM else with_progress(steps, len(paths), "embedding")
    unreadable = dict(pair for broken in shown for pair in broken)
    for reason in unreadable.values():
        print(f"warning: {harmless(reason)}", file=sys.stderr)
    if len(unreadable) == len(paths):
        raise UserError(f"none of {len(paths)} images can be read, for example {unreadable[0]}")
    read = [row for row in range(len(paths)) if row not in unreadable]
    class_names, labels = as_labels(images[row][1] for row in read)
    Embeddings(
        embeddings=embeddings[read],
        paths=np.array([paths[row] for row in read]),
        labels=labels,
        class_names=class_names,
        folder=os.getcwd(),
        checkpoint=str(options.ckpt),
        checkpoint_sha256=model.sha256,
        size=model.size,
        resize=model.resize,
        channels=model.channels,
        distance=model.distance,
    ).save(options.out)
    print(f"{counted(len(read), 'embedding')}: {options.out}")
    if unreadable:
        print(f"warning: {len(unreadable)} of {len(paths)} images could not be read", file=sys.stderr)
    return 0


def check_writable(path: Path, option: str) -> None:
    """Say now, not after hours of work, that a file cannot be written.

    Raises:
        UserError: if its folder is not there or may not be written, or it is itself a folder or a device.
    """
    with writing(f"{option} {path}"):
        if path.exists() and not path.is_file():  # a device, too, would be replaced
            raise OSError("it is no file")
        tempfile.TemporaryFile(dir=path.parent).close()


def find_images(arguments: Iterable[str]) -> list[tuple[str, str]]:
    """The image files that arguments of the command mean, each once, and its class by the folder it lies in.

    Files in a folder count if their ending is an image's, hidden ones do not. A file that is given is an image if it
    has such an ending or none, and else lists paths in UTF-8, one a line, relative to its folder or absolute. The class
    is the folder's path below the folder that was given (``Latin/a`` and ``Greek/a`` are two), empty for an image
    directly in that; of a file that was given or listed, the name of its folder.

    Raises:
        UserError: if an argument is not there, has no images, or is neither an image nor a list.
    """
    found: dict[str, str] = {}
    for argument in arguments:
        images = dict(_images_of(argument))
        if not images:
            raise UserError(f"{argument}: holds no images (files that end in .jpg, .png and the like)")
        found |= images | found  # an image that comes again keeps its first folder
    return list(found.items())


def _images_of(argument: str) -> Iterator[tuple[str, str]]:
    path = Path(argument).expanduser()
    if path.is_dir():
        walked = set()
        for base, folders, files in os.walk(path, followlinks=True):
            place = os.stat(base)
            if (place.st_dev, place.st_ino) in walked:  # a link back to where we have been
                folders.clear()
                continue
            walked.add((place.st_dev, place.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            folder = "" if base == str(path) else Path(base).relative_to(path).as_posix()
            for name in sorted(files):
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS:
                    yield os.path.join(base, name), folder
        return
    if not path.is_file():
        state = "is neither a file nor a folder" if path.exists() else "no such file or folder"
        raise UserError(f"{argument}: {state}; give images, folders of them, or text files that list them")
    if not path.suffix or path.suffix.lower() in EXTENSIONS:
        yield str(path), path.parent.name
        return
    try:
        with open(path, encoding="utf-8-sig") as file:
            for line in filter(None, map(str.strip, file)):
                yield str(path.parent / line), Path(line).parent.name
    except (UnicodeDecodeError, OSError) as error:
        reason = f"is neither an image, by its ending, nor a list of paths ({one_line(error)})"
        raise UserError(f"{argument}: {reason}; give images, folders of them, or lists in UTF-8") from error


def as_labels(folders: Iterable[str]) -> tuple[npt.NDArray[np.str_], npt.NDArray[np.int64]]:
    """Names of classes (C,) and labels (N,) int64, -1 where the folder is empty or says nothing."""
    names = list(folders)
    class_names = np.array(sorted({*names} - {"", ".."}), dtype=np.str_)
    number = {name: label for label, name in enumerate(class_names.tolist())}
    return class_names, np.array([number.get(name, -1) for name in names], dtype=np.int64)
