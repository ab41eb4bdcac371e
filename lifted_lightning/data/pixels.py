"""The pixel cache: each image decoded once, to uint8 at the working size, in one memory-mapped file.

All processes of a machine share the file's pages, so neither ranks nor workers add to the memory it takes.

The file: a header of 4,096 bytes (``MAGIC``, then JSON that says what the file holds, padded with zeros), the
pixels (N, size, size, C), and N bytes that are 1 for images that could be decoded.
"""

import errno
import fcntl
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from lifted_lightning.data.images import RESIZE_MODES, ResizeMode, UInt8Array, to_pixels
from lifted_lightning.data.table import ImageTable, IntArray
from lifted_lightning.errors import UserError

CHUNK = 32  # images decoded between two writes


SMALL = 256  # up to here, starting processes takes longer than decoding


Broken = list[tuple[int, str]]  # rows that cannot be decoded, and why


Steps = Generator[tuple[int, Broken]]  # after each chunk: how many images it had, and which broke


@dataclass(frozen=True)
class Decoding:
    """What to decode: a table's images, to (size, size, channels) in the way ``mode`` says."""

    table: ImageTable
    size: int
    mode: ResizeMode
    channels: int

    @property
    def image_bytes(self) -> int:
        return self.size * self.size * self.channels

    def image(self, row: int) -> UInt8Array | str:
        """(size, size, channels) pixels, or why there are none."""
        try:
            return to_pixels(self.table.read(row), self.size, self.mode, self.channels)
        except MemoryError:
            raise
        except UserError as error:
            return str(error)
        except Exception as error:  # damaged files make Pillow raise nearly anything
            return " ".join(f"{type(error).__name__}: {error}".split())[:200]

    def chunk(self, start: int, stop: int) -> tuple[UInt8Array, Broken]:
        """Images of rows start..stop-1, zeros for broken ones, and which those are."""
        pixels = np.zeros((stop - start, self.size, self.size, self.channels), dtype=np.uint8)
        broken: Broken = []
        for i, row in enumerate(range(start, stop)):
            image = self.image(row)
            if isinstance(image, str):
                broken.append((row, image))
            else:
                pixels[i] = image
        return pixels, broken


def decode_all(decoding: Decoding, file: Path, offset: int, workers: int | None) -> Broken:
    """Decode every image of the table and write row i at ``offset + i * image_bytes`` of ``file``.

    Args:
        decoding: what to decode.
        file: exists; written in place.
        offset: of the first image, in bytes.
        workers: how many processes decode; by default as many as there are cores.

    Returns:
        the rows that could not be decoded, ascending, and why.

    Raises:
        UserError: if a worker process dies, or the disk is full.
    """
    count = len(decoding.table)
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if workers <= 1 or count <= SMALL:
        steps = write_share(decoding, file, offset, 0, 1)
    else:
        steps = spread(decoding, file, offset, workers)
    broken: Broken = []
    try:
        with closing(steps):
            for bad in with_progress(steps, count, f"decoding {decoding.table.name}"):
                broken.extend(bad)
    except OSError as error:
        raise UserError(f"writing {file}: {error.strerror or error}") from error
    return sorted(broken)


def broken_images(decoding: Decoding, rows: IntArray) -> UserError:
    """An error that names the first images of these rows and says what is wrong with them."""
    table = decoding.table
    named = "; ".join(f"{table.items[row]} ({decoding.image(row)})" for row in rows[:5].tolist())
    more = f"; and {len(rows) - 5} more" if len(rows) > 5 else ""
    return UserError(
        f"{table.name}: {len(rows)} of {len(table)} images cannot be decoded: {named}{more}. Replace them, "
        "or leave them out with skip_broken=true"
    )


def write_share(decoding: Decoding, file: Path, offset: int, share: int, shares: int) -> Steps:
    """Decode and write every ``shares``-th chunk; tell after each how many images it had and which broke."""
    count = len(decoding.table)
    descriptor = os.open(file, os.O_WRONLY)
    try:
        for start in range(share * CHUNK, count, shares * CHUNK):
            stop = min(start + CHUNK, count)
            pixels, broken = decoding.chunk(start, stop)
            if os.pwrite(descriptor, pixels.data, offset + start * decoding.image_bytes) < pixels.nbytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield stop - start, broken
    finally:
        os.close(descriptor)


def spread(decoding: Decoding, file: Path, offset: int, workers: int) -> Steps:
    """Run ``write_share`` in processes and pass on what they tell."""
    # Forked children see the table without copying it, start at once, and run nothing of torch.
    context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with ExitStack() as stack:
        open_pipes: list[Connection] = []
        for share in range(workers):
            receiver, sender = context.Pipe(duplex=False)
            arguments = (os.getpid(), sender, decoding, file, offset, share, workers)
            process = context.Process(target=run_worker, args=arguments, daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(process.terminate)
            sender.close()  # so that the end of the process ends the pipe
            open_pipes.append(receiver)
        while open_pipes:
            for pipe in wait(open_pipes):
                assert isinstance(pipe, Connection)
                try:
                    message = pipe.recv()
                except EOFError:
                    name = decoding.table.name
                    raise UserError(f"{name}: a decoding process was killed; is memory short?") from None
                if message is None:
                    open_pipes.remove(pipe)
                elif isinstance(message, BaseException):
                    raise message
                else:
                    yield message


def run_worker(parent: int, sender: Connection, decoding: Decoding, *where: Any) -> None:
    """The body of a decoding process: a chunk at a time, for as long as the parent lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        for message in write_share(decoding, *where):
            if os.getppid() != parent:
                os._exit(1)
            sender.send(message)
        sender.send(None)
    except Exception as error:
        sender.send(error)


def with_progress(steps: Steps, count: int, title: str) -> Iterator[Broken]:
    """Pass on what broke, drawing a bar with the rate and the time left on the standard error stream."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=count, rate=0.0)
        for done, broken in steps:
            progress.update(task, advance=done)
            bar = progress.tasks[task]
            progress.update(task, rate=bar.completed / bar.elapsed if bar.elapsed else 0.0)
            yield broken


MAGIC = b"lifted-lightning pixels 1\n"


HEADER = 4096


class Pixels:
    """N decoded images of one size, memory-mapped; index it with rows as one does an array.

    Pickling it copies no pixels: the other process maps the same file.

    Attributes:
        path: the cache file.
        shape: (N, H, W, C).
        valid: (N,) bool, False for images that could not be decoded and hold zeros.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int, int]) -> None:
        self.path = path
        self.shape = shape
        self.array: UInt8Array = np.memmap(path, np.uint8, "r", HEADER, shape)
        size = int(np.prod(shape, dtype=np.int64))
        self.valid = np.fromfile(path, np.uint8, count=shape[0], offset=HEADER + size).astype(bool)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> UInt8Array:
        return self.array[rows]

    def __reduce__(self) -> tuple[type["Pixels"], tuple[Path, tuple[int, int, int, int]]]:
        return Pixels, (self.path, self.shape)


def open_pixels(
    table: ImageTable,
    size: int,
    *,
    mode: ResizeMode = "squash",
    channels: int = 3,
    cache_dir: Path | None = None,
    workers: int | None = None,
    skip_broken: bool = False,
) -> Pixels:
    """The pixels of a table's images, decoded now if no cache of them is found.

    Of several processes that ask for the same pixels at the same time one decodes, and the others wait.

    Args:
        table: the images.
        size: side of the decoded images in pixels.
        mode: how an image becomes square: ``squash``, ``crop`` or ``pad``, see ``resize.to_pixels``.
        channels: 1 for grey, 3 for colour.
        cache_dir: by default the environment's ``LIFTED_CACHE_DIR``, else ``~/.cache/lifted-lightning``.
        workers: how many processes decode; by default as many as there are cores.
        skip_broken: leave out images that cannot be decoded: their rows are False in ``Pixels.valid``.

    Raises:
        UserError: for a setting that cannot be, images that cannot be decoded (named), too little disk space,
            or a folder that cannot be written.
    """
    if size <= 0 or channels not in (1, 3) or mode not in RESIZE_MODES:
        raise UserError(
            f"pixel cache size={size}, mode={mode}, channels={channels}: want a positive size, a mode of "
            f"{', '.join(RESIZE_MODES)}, and 1 or 3 channels"
        )
    decoding = Decoding(table, size, mode, channels)
    contents = describe(decoding)
    file = (cache_dir or default_cache_dir()) / file_name(table, contents)
    pixels = find(file, decoding, contents)
    if pixels is None:
        with locked(file):
            pixels = find(file, decoding, contents)
            if pixels is None:
                pixels = build(file, decoding, contents, workers)
    broken = np.flatnonzero(~pixels.valid)
    if len(broken) and not skip_broken:
        raise broken_images(decoding, broken)
    return pixels


def default_cache_dir() -> Path:
    return Path(os.environ.get("LIFTED_CACHE_DIR") or Path.home() / ".cache" / "lifted-lightning")


def describe(decoding: Decoding) -> dict[str, Any]:
    """What a cache file says it holds: it is used only if this agrees in all."""
    count = len(decoding.table)
    return {
        "key": digest(decoding.table.key),
        "items": digest("\0".join(decoding.table.items)),
        "size": decoding.size,
        "mode": decoding.mode,
        "channels": decoding.channels,
        "count": count,
        "bytes": HEADER + count * (decoding.image_bytes + 1),
    }


def file_name(table: ImageTable, contents: dict[str, Any]) -> str:
    """One name for each data set, size, mode and channels: ``cub200-256-squash-3-1f00ba4b.pixels``."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", table.name)[:60]
    return "-".join([name, *(str(contents[k]) for k in ("size", "mode", "channels")), contents["key"][:8]]) + ".pixels"


def digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def header(contents: dict[str, Any]) -> bytes:
    return (MAGIC + json.dumps(contents).encode()).ljust(HEADER, b"\0")


def find(file: Path, decoding: Decoding, contents: dict[str, Any]) -> Pixels | None:
    """The cached pixels, unless the file is missing, truncated, foreign, outdated, or was made of images that
    were damaged then and are not now.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(HEADER) != header(contents) or os.fstat(stream.fileno()).st_size != contents["bytes"]:
                return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"pixel cache {file}: cannot be read ({error.strerror}); set another cache_dir") from error
    pixels = Pixels(file, (contents["count"], decoding.size, decoding.size, decoding.channels))
    mended = (not isinstance(decoding.image(int(row)), str) for row in np.flatnonzero(~pixels.valid))
    return None if any(mended) else pixels


def build(file: Path, decoding: Decoding, contents: dict[str, Any], workers: int | None) -> Pixels:
    """Decode all images; the file appears under its name when complete. The caller holds the lock."""
    free = shutil.disk_usage(file.parent).free
    if contents["bytes"] > free:
        raise UserError(
            f"pixel cache {file}: needs {contents['bytes'] / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; free "
            "some, set another cache_dir (LIFTED_CACHE_DIR) or a smaller size"
        )
    temporary = file.with_suffix(".tmp")  # one name, guarded by the lock: a dead process's is overwritten
    try:
        with temporary.open("wb") as stream:
            stream.write(header(contents))
            stream.truncate(contents["bytes"])
        broken = decode_all(decoding, temporary, HEADER, workers)
        count = contents["count"]
        if count and len(broken) == count:
            raise broken_images(decoding, np.arange(count))
        valid = np.ones(count, dtype=np.uint8)
        valid[[row for row, _ in broken]] = 0
        with temporary.open("r+b") as stream:
            stream.seek(contents["bytes"] - count)
            stream.write(valid.tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return Pixels(file, (count, decoding.size, decoding.size, decoding.channels))


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock of a cache file. The system frees it when its holder dies, however that happens."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_suffix(".lock").open("wb")
    except OSError as error:
        raise UserError(
            f"pixel cache {file.parent}: cannot be written ({error.strerror}); set another cache_dir or "
            "LIFTED_CACHE_DIR"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # blocks while another process decodes, which shows its progress
        except OSError as error:
            raise UserError(
                f"pixel cache {file.parent}: cannot be locked ({error.strerror}); set another cache_dir"
            ) from error
        yield
