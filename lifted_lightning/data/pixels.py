"""The pixel cache: each image decoded once, to uint8 at the working size, in one memory-mapped file.

``NAME.npy`` holds the pixels (N, H, W, C); ``numpy.load(path, mmap_mode="r")`` opens it anywhere. ``NAME.json``
beside it says of which images they are and which of these cannot be decoded, and has a checksum for each block of
the file. All processes of a machine share the file's pages, so neither ranks nor workers add to the memory it takes.
"""

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import signal
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lifted_lightning.data.images import Interpolation, ResizeMode, Size, UInt8Array, image_or_error, sides, to_pixels
from lifted_lightning.data.table import ImageTable, IntArray
from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic, lock, writing
from lifted_lightning.processes import cores, end_with_parent

BLOCK = 1 << 20  # bytes that share a checksum
CHUNK = 32  # images that a process decodes at a time
REMEDY = "set another cache_dir (or LIFTED_CACHE_DIR)"
SMALL = 1000  # up to here, starting processes takes longer than decoding

_builds = threading.Lock()  # of this process; a file's lock is against other processes only

Broken = list[tuple[int, str]]  # rows whose images cannot be decoded, and why
Steps = Iterator[tuple[int, Broken]]  # some images at a time: how many, and which of them broke


@dataclass(frozen=True)
class Decoding:
    """What a cache holds: a table's images, brought to one size and number of channels.

    Attributes:
        table: the images.
        size: of the decoded images in pixels: a side, or height and width.
        mode: how an image comes to that: ``squash``, ``crop`` or ``pad``, see ``images.to_pixels``.
        channels: 1 for grey, 3 for colour.
        interpolation: how pixels are made of others: ``bilinear``, ``bicubic`` or ``lanczos``.
    """

    table: ImageTable
    size: Size = 1
    mode: ResizeMode = "squash"
    channels: int = 3
    interpolation: Interpolation = "bilinear"

    @property
    def how(self) -> str:
        """The way images were brought to their size, as files and their names say it."""
        return self.mode if self.interpolation == "bilinear" else f"{self.mode}+{self.interpolation}"

    @property
    def identity(self) -> dict[str, Any]:
        """What the files say of themselves: they are used only if they agree in all."""
        items = digest("\0".join(self.table.items))
        shape = [len(self.table), *sides(self.size), self.channels]
        return {"key": digest(self.table.key), "items": items, "mode": self.how, "shape": shape, "block": BLOCK}

    def image(self, row: int) -> Image.Image | UserError:
        """The image of a row at its own size, or why there is none."""
        return image_or_error(partial(self.table.read, row), self.table.items[row], self.channels)

    def resized(self, image: Image.Image) -> UInt8Array:
        """Such an image as (H, W, C) pixels of the one size."""
        return to_pixels(image, self.size, self.mode, self.interpolation)

    def decode(self, rows: Iterable[int], into: UInt8Array | None = None) -> Broken:
        """Decode the images of these rows to those of an array, if there is one; gives those that cannot be."""
        broken: Broken = []
        for row in rows:
            image = self.image(row)
            if isinstance(image, UserError):
                broken.append((row, str(image)))
            elif into is not None:
                into[row] = self.resized(image)
        return broken


class Pixels:
    """N decoded images of one size, memory-mapped; index it with rows as one does an array.

    A block of the file is checked when it is first read; if it is damaged, all images are decoded again. Pickling
    copies no pixels: the other process maps the same file.

    Attributes:
        path: the ``.npy`` file.
        shape: (N, H, W, C).
        valid: (N,) bool, False for images that cannot be decoded and hold zeros.

    Raises:
        OSError: if the files are missing, or cannot be read. Many other kinds: if they are not what they must be.
    """

    def __init__(self, path: Path, decoding: Decoding) -> None:
        self.path = path
        self.decoding = decoding
        contents = json.loads(path.with_suffix(".json").read_text())
        self.array: UInt8Array = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
        self.shape = self.array.shape
        wrong = [key for key, value in decoding.identity.items() if contents[key] != value]
        if wrong or self.array.dtype != np.uint8 or [*self.shape] != contents["shape"]:
            raise ValueError(f"{path} holds other images")
        self.valid = np.ones(len(self), dtype=bool)
        self.valid[contents["broken"]] = False
        self._sums = np.array(contents["crc32"], dtype=np.uint32)
        self._unread = np.ones(-(-self.array.size // BLOCK), dtype=bool)  # blocks that are not checked yet
        if self._sums.shape != self._unread.shape:
            raise ValueError(f"{path} has another number of blocks")

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> UInt8Array:
        return self.take(np.arange(len(self))[rows])

    def __reduce__(self) -> tuple[type["Pixels"], tuple[Path, Decoding]]:
        return Pixels, (self.path, self.decoding)

    def take(self, rows: IntArray, out: UInt8Array | None = None) -> UInt8Array:
        """A copy of the images in rows (n,), as (n, H, W, C); in ``out`` if it is given.

        Raises:
            UserError: if the file is damaged, and images that it had can no longer be decoded.
        """
        if self._unread.any():
            size = self.array[0].size
            first, last = rows * size // BLOCK, ((rows + 1) * size - 1) // BLOCK
            blocks = np.minimum(first[..., None] + np.arange(size // BLOCK + 2), last[..., None])
            new = np.unique(blocks[self._unread[blocks]])
            if len(new) and not self.intact(new):
                fresh = find_or_build(self.path, self.decoding, check=True)
                lost = np.flatnonzero(self.valid & ~fresh.valid)
                if len(lost):
                    raise broken_images(self.decoding.table, lost)
                vars(self).update(vars(fresh))
        return np.take(self.array, rows, axis=0, out=out, mode="clip")

    def intact(self, blocks: IntArray | None = None) -> bool:
        """Whether these blocks, or all, are as they were written."""
        blocks = np.arange(len(self._sums)) if blocks is None else blocks
        if not np.array_equal(checksums(self.array, blocks), self._sums[blocks]):
            return False
        self._unread[blocks] = False
        return True


def open_pixels(
    decoding: Decoding, cache_dir: Path | None = None, workers: int | None = None, skip_broken: bool = False
) -> Pixels:
    """The pixels of a table's images, decoded now if no cache of them is found.

    Of several processes that ask for the same pixels at the same time one decodes, and the others wait.

    Args:
        decoding: of which images, and how.
        cache_dir: by default the environment's ``LIFTED_CACHE_DIR``, else ``~/.cache/lifted-lightning``.
        workers: how many processes decode; by default as many as there are cores.
        skip_broken: leave out images that cannot be decoded: their rows are False in ``Pixels.valid``.

    Raises:
        UserError: for images that cannot be decoded (named), or a disk that is full or cannot be written.
    """
    shape = "x".join(map(str, dict.fromkeys(sides(decoding.size))))  # 256, or 256x128
    path = cache_file(decoding.table, f"{shape}-{decoding.how}-{decoding.channels}", cache_dir)
    pixels = find(path, decoding) or find_or_build(path, decoding, workers)
    broken = np.flatnonzero(~pixels.valid)
    if len(broken) and not skip_broken:
        raise broken_images(decoding.table, broken)
    return pixels


def verified_caches(table: ImageTable, cache_dir: Path | None = None) -> Iterator[Pixels]:
    """Each cache of a table's images, checked as a whole, and built again if it is damaged."""
    pattern = cache_file(table, "*", cache_dir)
    for path in sorted(pattern.parent.glob(pattern.name)):
        _, shape, how, channels, _ = path.stem.rsplit("-", 4)
        size = int(shape.split("x")[0]), int(shape.split("x")[-1])
        mode, _, interpolation = how.partition("+")
        decoding = Decoding(table, size, mode, int(channels), interpolation or "bilinear")  # type: ignore[arg-type]
        pixels = find(path, decoding)  # without a lock, for a cache that is shared may not be ours to write
        yield pixels if pixels is not None and pixels.intact() else find_or_build(path, decoding, check=True)


def unreadable(table: ImageTable) -> Broken:
    """Decode every image of a table and keep none; gives those that cannot be decoded, by row."""
    return decode_all(Decoding(table), None, None)


def broken_images(table: ImageTable, rows: IntArray) -> UserError:
    """An error that names the first images of these rows and says what is wrong with them."""
    named = "; ".join(why for _, why in Decoding(table).decode(rows[:5].tolist()))
    more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
    return UserError(
        f"{table.name}: {len(rows)} of {len(table)} images cannot be decoded: {named}{more}. Replace them, "
        "or leave them out with --data.skip_broken=true"
    )


def cache_file(table: ImageTable, settings: str, cache_dir: Path | None) -> Path:
    """One file for each data set and settings: ``cub200-256-squash-3-1f00ba4b.npy``."""
    folder = cache_dir or Path(os.environ.get("LIFTED_CACHE_DIR") or Path.home() / ".cache" / "lifted-lightning")
    return folder / f"{re.sub('[^A-Za-z0-9_-]+', '_', table.name)[:60]}-{settings}-{digest(table.key)[:8]}.npy"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def checksums(array: UInt8Array, blocks: IntArray) -> npt.NDArray[np.uint32]:
    """The CRC-32 of each of these blocks of an array's bytes, by as many threads as there are cores."""
    flat = array.reshape(-1).data
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda block: zlib.crc32(flat[block * BLOCK : (block + 1) * BLOCK]), blocks.tolist())
        return np.fromiter(found, dtype=np.uint32, count=len(blocks))


def find(path: Path, decoding: Decoding) -> Pixels | None:
    """The cached pixels, unless they are missing, cut short, foreign, or of images that were broken and are mended."""
    try:
        pixels = Pixels(path, decoding)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"pixel cache {path}: cannot be read ({error.strerror}); {REMEDY}") from error
    except Exception:  # numpy and json raise many kinds for a header or a text that is damaged
        return None
    broken = np.flatnonzero(~pixels.valid).tolist()
    return pixels if len(decoding.decode(broken)) == len(broken) else None


def find_or_build(path: Path, decoding: Decoding, workers: int | None = None, check: bool = False) -> Pixels:
    """The cached pixels, decoded by whoever comes first; with ``check`` again if any of their blocks is damaged."""
    with _builds:
        with writing(f"pixel cache {path}", REMEDY):
            path.parent.mkdir(parents=True, exist_ok=True)
            held = lock(path.with_suffix(".lock"), wait=True)  # while another process decodes, which shows its progress
        try:
            pixels = find(path, decoding)
            if pixels is not None and check and not pixels.intact():
                print(f"pixel cache {path}: is damaged; its images are decoded again", file=sys.stderr)
                pixels = None
            if pixels is None:
                build(path, decoding, workers)
                pixels = Pixels(path, decoding)
            return pixels
        finally:
            os.close(held)


def build(path: Path, decoding: Decoding, workers: int | None) -> None:
    """Decode all images. The JSON, without which the pixels are not used, comes last; the caller holds the lock."""
    temporary = path.with_suffix(".tmp")  # one name, guarded by the lock: a dead process's is overwritten
    shape = tuple(decoding.identity["shape"])
    try:
        array = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        if sys.platform == "linux":  # or a disk that fills up would kill whoever writes to the mapped file
            with temporary.open("r+b") as stream:
                os.posix_fallocate(stream.fileno(), 0, temporary.stat().st_size)
        broken = decode_all(decoding, temporary, workers)
        if broken and len(broken) == len(array):
            raise broken_images(decoding.table, np.arange(len(array)))
        sums = checksums(array, np.arange(-(-array.size // BLOCK))).tolist()
        path.with_suffix(".json").unlink(missing_ok=True)
        temporary.replace(path)
        with atomic(path.with_suffix(".json"), "w") as text:
            json.dump({**decoding.identity, "broken": [row for row, _ in broken], "crc32": sums}, text)
    except OSError as error:
        need = f"needs {np.prod(shape, dtype=float) / 1e9:.1f} GB and cannot be written ({error.strerror or error})"
        raise UserError(f"pixel cache {path}: {need}; make room, or {REMEDY}") from error
    finally:
        temporary.unlink(missing_ok=True)


def decode_all(decoding: Decoding, file: Path | None, workers: int | None) -> Broken:
    """Decode every image of the table into an ``.npy`` file of them, if there is one; gives those that cannot be.

    Raises:
        UserError: if one of the processes that decode dies.
    """
    count, workers = len(decoding.table), workers or cores()
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    alone = workers == 1 or count <= SMALL or multiprocessing.current_process().daemon
    if alone or not can_be_sent(decoding.table):
        array = None if file is None else np.lib.format.open_memmap(file, "r+")
        steps: Steps = ((len(chunk), decoding.decode(chunk, array)) for chunk in chunks)
    else:
        steps = decode_in_processes(decoding, file, chunks, workers)
    return sorted(found for chunk in with_progress(steps, count, f"decoding {decoding.table.name}") for found in chunk)


def decode_in_processes(decoding: Decoding, file: Path | None, chunks: Sequence[range], workers: int) -> Steps:
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads as they happen to be
    with ProcessPoolExecutor(workers, context, start_worker, (os.getpid(), decoding, file)) as pool:
        try:
            with without_main():
                futures = [pool.submit(decode_chunk, chunk) for chunk in chunks]
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError(f"{decoding.table.name}: a decoding process was killed; is memory short?") from error
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that start meanwhile do not run the user's script again, so that it needs no guard against that."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def can_be_sent(table: ImageTable) -> bool:
    """Whether another process can read the images: not by a function of a notebook or script, for example."""
    try:
        with without_main():
            return bool(pickle.dumps(table.reader))
    except (pickle.PicklingError, AttributeError, TypeError):
        return False


_work: tuple[Decoding, UInt8Array | None]  # of a process that decodes, and of no other


def start_worker(parent: int, decoding: Decoding, file: Path | None) -> None:
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent(parent)
    _work = decoding, None if file is None else np.lib.format.open_memmap(file, "r+")


def decode_chunk(rows: range) -> tuple[int, Broken]:
    decoding, array = _work
    return len(rows), decoding.decode(rows, array)


def with_progress(steps: Steps, count: int, title: str) -> Iterator[Broken]:
    """Pass on what broke, drawing a bar with the rate and the time left on the standard error stream."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, Progress, TextColumn

    columns = (*Progress.get_default_columns(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.0f} images/s"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(escape(title), total=count, rate=0.0)
        for done, broken in steps:
            bar = progress.tasks[task]
            progress.update(task, advance=done, rate=(bar.completed + done) / (bar.elapsed or 1e9))
            yield broken
