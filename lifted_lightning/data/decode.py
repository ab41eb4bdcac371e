"""Decoding all images of a table into one file, in several processes, with progress."""

import errno
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from lifted_lightning.data.resize import ResizeMode, UInt8Array, to_pixels
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
