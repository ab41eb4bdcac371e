"""Run folders: their names, their lock, ``metrics.csv``, and ``result.json``, the contract for all that reads runs."""

import csv
import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifted_lightning import files
from lifted_lightning.errors import UserError
from lifted_lightning.runs.settings import each_value

CONFIG = "config.yaml"
METRICS = "metrics.csv"
RESULT = "result.json"
MEMBERS = "members"  # in one that is of no run, but of the models of some: these, by run and checkpoint
CHECKPOINTS = "checkpoints"
PLOTS = "plots"
CODE = "code"  # the user's own modules that the run used
LOCK = ".lock"
IDENTITY = "wandb/id.txt"  # the id that W&B knows the run by, and that of its sweep, if any


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


def lock(folder: Path, name: str = LOCK) -> int:
    """Hold the folder for this process until it ends or closes what is returned: no two processes write one run.

    Raises:
        UserError: if another process holds it.
    """
    try:
        return files.lock(folder / name)
    except BlockingIOError:
        raise UserError(f"{folder}: another process is writing this run; wait for it, or end it") from None


def remove_unfinished(folder: Path) -> None:
    """Delete what a process killed while writing a file of the run left behind."""
    for part in (folder, folder / CHECKPOINTS, folder / PLOTS):
        for path in part.glob(".*.tmp"):
            path.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a ``metrics.csv``, one a step that logged anything: none is lost, and none is there twice.

    Lines are only added to the file. Those of one step become one row, in which the value that was written last
    counts. Training that comes to a step which is in the file has gone on from a checkpoint before it, so that
    what is there of later steps does not count. A line cut short by a killed process is left out.

    Returns:
        One dictionary a step, from column to text; empty text where the step has no such value.
    """
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        lines = file.readlines()
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows: dict[int, dict[str, str]] = {}
    for line in csv.DictReader(lines):
        step = int(line["step"])
        while line.get("train/loss") and rows and next(reversed(rows)) > step:
            rows.popitem()
        row = rows.setdefault(step, line)
        row.update((column, value) for column, value in line.items() if value)
    return list(rows.values())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON so that a reader sees the whole file or none; numbers that are not finite become null."""
    with files.atomic(path, "w") as file:
        finite = each_value(content, lambda v: None if isinstance(v, float) and not math.isfinite(v) else v)
        json.dump(finite, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
