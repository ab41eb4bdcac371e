"""The pixel cache: each image decoded once, to uint8 at the working size, in one memory-mapped file.

All processes of a machine share the file's pages, so neither ranks nor workers add to the memory it takes.

The file: a header of 4,096 bytes (``MAGIC``, then JSON that says what the file holds, padded with zeros), the
pixels (N, size, size, C), and N bytes that are 1 for images that could be decoded.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lifted_lightning.data.decode import Decoding, broken_images, decode_all
from lifted_lightning.data.resize import RESIZE_MODES, ResizeMode, UInt8Array
from lifted_lightning.data.table import ImageTable
from lifted_lightning.errors import UserError

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
    return (
        "-".join([name, *(str(contents[k]) for k in ("size", "mode", "channels")), contents["key"][:8]])
        + ".pixels"
    )


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
            if (
                stream.read(HEADER) != header(contents)
                or os.fstat(stream.fileno()).st_size != contents["bytes"]
            ):
                return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(
            f"pixel cache {file}: cannot be read ({error.strerror}); set another cache_dir"
        ) from error
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
