"""Files that a reader sees whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal


@contextmanager
def atomic(path: Path, mode: Literal["w", "wb"] = "wb") -> Iterator[IO[Any]]:
    """Open a file beside ``path``, which takes that name when the block ends and its bytes are on the disk.

    If the block raises, ``path`` stays as it was; a process killed before the end leaves ``.NAME.PID.tmp``.
    Text is UTF-8, with the line ends that are written.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    text: dict[str, Any] = {"encoding": "utf-8", "newline": ""} if mode == "w" else {}
    try:
        with open(unfinished, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
