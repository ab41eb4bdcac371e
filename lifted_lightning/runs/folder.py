"""Run folders: their names, their lock, and ``result.json``, the contract for all that reads runs."""

import csv
import fcntl
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifted_lightning.errors import UserError
from lifted_lightning.files import atomic

CONFIG = "config.yaml"


METRICS = "metrics.csv"


RESULT = "result.json"


PLOTS = "plots"


LOCK = ".lock"


CHECKPOINTS = "checkpoints"


def claim_folder(parent: Path, name: str) -> tuple[Path, int]:
    """Make and lock a folder ``parent/name``, or ``name-2``, ``name-3``, … where that holds a run already.

    Returns:
        The folder and its lock (see :func:`lock`).
    """
    for attempt in itertools.count(1):
        folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
        if (folder / CONFIG).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(folder)
        except UserError:
            continue
        if not (folder / CONFIG).exists():  # else its run began and ended meanwhile
            return folder, held
        os.close(held)
    raise AssertionError("there is always a next number")


def folder_of_checkpoint(checkpoint: Path) -> Path | None:
    """The run's folder that a checkpoint lies in, or None for a checkpoint that lies elsewhere."""
    folder = checkpoint.resolve().parent
    return folder.parent if folder.name == CHECKPOINTS else None


def unfinished_folder(checkpoint: Path) -> Path | None:
    """The run's folder to go on in: the checkpoint's, unless that run has its result already."""
    folder = folder_of_checkpoint(checkpoint)
    return None if folder is None or (folder / RESULT).exists() else folder


def checkpoints_beside(missing: Path) -> str:
    """What lies where a checkpoint is missed, for a message: a run without a validation has a last one, but no best."""
    names = sorted(path.name for path in missing.parent.glob("*.ckpt"))
    return f" ({', '.join(names)} is there)" if names else ""


def remove_unfinished(folder: Path) -> None:
    """Delete what a process killed while writing a file of the run left behind."""
    for part in (folder, folder / CHECKPOINTS, folder / PLOTS):
        for path in part.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def lock(folder: Path, name: str = LOCK) -> int:
    """Hold the folder for this process until it ends, so that no two processes write one run.

    The lock is this process's alone: loader workers that outlive it by some seconds do not hold it.

    Raises:
        UserError: if another process holds it.
    """
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise UserError(f"{folder}: another process is writing this run; wait for it, or end it") from None
    return descriptor


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``; a last line cut short by a killed process is left out."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        lines = file.readlines()
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [row for row in csv.DictReader(lines) if None not in row.values()]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the whole file or none; numbers that are not finite become null."""
    with atomic(path, "w") as file:
        json.dump(_plain(content), file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
