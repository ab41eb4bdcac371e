"""Finds run folders and reads each one's ``result.json`` into one frame; what cannot be counted is named."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifted_lightning.errors import UserError, listed
from lifted_lightning.runs.evaluations import looks_at_test
from lifted_lightning.runs.folder import CONFIG, MEMBERS, RESULT
from lifted_lightning.runs.settings import comparable, flatten

STAGES = ("test", "validation")
LEDGER = ("cost", "selection", "tuning_trials", "test_looks")  # how it came about that a result is there


@dataclass
class Runs:
    """The finished runs at or below some folders.

    Attributes:
        frame: a row a run, sorted by name; columns of two levels. ``run``: its ``name`` (``sweep/trial``), ``folder``,
            ``seed``, ``fold`` (or None), ``same`` (equal for runs that differ in these only), ``result`` (its
            ``result.json``).
            ``setting``: what makes it what it is but for its seed (see ``runs.settings.comparable``), None where it has
            no such setting. ``value``: numbers, NaN where there is none: ``test/recall@1`` and other metrics,
            ``batch/...`` at the end of training, ``steps``, ``selected_step``, ``seconds`` of training, and what it
            cost and how it came about, as ``cost.fit.core_seconds`` and the like.
        stage: whose metrics count: ``test`` or ``validation``.
        notes: a line each on what does not count.
    """

    frame: pd.DataFrame
    stage: str
    notes: list[str]


def find_runs(paths: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """All finished runs at or below these folders, as the frame of :class:`Runs`, and a line each on the others.

    Raises:
        UserError: for a path that is not there or has no run below it, and if no run is finished.
    """
    folders: dict[Path, bool] = {}
    for path in paths:
        below = dict(_run_folders(_folder(path)))
        if not below:
            raise UserError(f"{path}: no run below it (no {RESULT}); give run folders, or one above them")
        folders |= below
    names = {folder: printable(f"{folder.parent.name}/{folder.name}") for folder in folders}
    order = sorted(folders, key=lambda folder: (names[folder], folder))
    loaded = [run for folder in order if folders[folder] and (run := _load(folder, names[folder])) is not None]
    notes = [line for line in loaded if isinstance(line, str)]
    if unfinished := [names[folder] for folder in order if not folders[folder]]:
        notes.append(
            f"{listed(unfinished)}: no {RESULT}, failed or unfinished, not counted; go on with `lifted fit --config "
            "RUN/config.yaml --ckpt_path=last`, or give the sweep again (its trials' log.txt say more)"
        )
    found = [run for run in loaded if not isinstance(run, str)]
    if not found:
        raise UserError(f"{', '.join(paths)}: no finished run; " + "; ".join(notes))
    parts = {part: pd.DataFrame([run[part] for run in found], dtype=object) for part in ("run", "setting", "value")}
    parts["setting"] = parts["setting"].where(parts["setting"].notna(), None)
    parts["value"] = parts["value"].astype(float)
    return pd.concat(parts, axis=1), notes


def that_count(frame: pd.DataFrame, notes: list[str]) -> Runs:
    """The runs whose metrics are of one stage, of the test if any has been tested, each once.

    Raises:
        UserError: if none is left.
    """
    stage, notes = "test", [*notes]
    tested = np.array([bool(result["test"]) for result in frame["run", "result"]])
    if not tested.any():
        stage = "validation"
        notes.append("no run has test metrics: these are of the validation classes")
    elif not tested.all():
        others = listed(frame["run", "name"][~tested].tolist())
        notes.append(f"{others}: evaluated on the validation classes only, not counted; run `lifted test` on them")
        frame = frame[tested]
    partial = np.array([stage in (result.get("part") or {}) for result in frame["run", "result"]])
    if partial.any():
        notes.append(f"{listed(frame['run', 'name'][partial].tolist())}: of a part of the {stage} images, not counted")
        frame = frame[~partial]
    if not len(frame):
        raise UserError("no whole run: " + "; ".join(notes))
    again = frame["run"].duplicated(["same", "seed", "fold"])
    if again.any():
        kept = frame["run"].groupby(["same", "seed", "fold"], sort=False, dropna=False)["name"].transform("first")
        pairs = [f"{name} (as {first})" for name, first in zip(frame["run", "name"][again], kept[again], strict=True)]
        notes.append(f"same configuration and seed as another run, counted once: {listed(pairs)}")
    return Runs(frame[~again].reset_index(drop=True), stage, notes)


def printable(name: str) -> str:
    """A name that was read, in one line, with a space in place of what cannot be printed."""
    return " ".join((name if name.isprintable() else "".join(c if c.isprintable() else " " for c in name)).split())


def _folder(path: str) -> Path:
    folder = Path(path).parent if Path(path).name == RESULT else Path(path)
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; give run folders, or a folder above them")
    return folder.resolve()


def _run_folders(top: Path) -> Iterator[tuple[Path, bool]]:
    """Run folders at or below this one, and whether each has its result; nothing within a run is looked at."""
    for folder, below, files in os.walk(top):
        if RESULT in files or CONFIG in files:
            below.clear()
            yield Path(folder), RESULT in files


def _load(folder: Path, name: str) -> dict[str, dict[str, Any]] | str | None:
    """A run's part of each level of the frame's columns, or a line that says what is wrong with its file.

    None for what is no run's, but of the models of several runs.
    """
    try:
        result = json.loads((folder / RESULT).read_bytes())
        if MEMBERS in result:
            return None
        if not any(result[stage] for stage in STAGES):
            raise ValueError("no metrics")
        objects = ("baseline", "git", "part", "versions")
        if wrong := [name for name in objects if not isinstance(result.get(name) or {}, dict)]:
            raise TypeError(f"{wrong[0]} is no object")
        if not isinstance(result.get("steps") or 0, int):
            raise TypeError("steps is no number")
        if not all(isinstance(entry, dict) for entry in result.get("history") or []):
            raise TypeError("history is no list of objects")
        settings = {printable(key): _one_value(value) for key, value in comparable(result["config"], result).items()}
        if isinstance(looks := result.get("test_looks"), int):  # its checkpoints may have been evaluated since
            result["test_looks"] = max(looks, looks_at_test(folder, result["dataset"]))
        values = _numbers(result)
        seed, fold = result.get("seed"), (result["config"].get("data") or {}).get("fold")
    except (OSError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RecursionError) as error:
        why = printable(repr(error))[:80]
        return f"{name}/{RESULT}: is not a run's result ({why}), not counted; remove it and run again"
    seed = seed if type(seed) is int else f"none ({name})"  # a run without one has a seed of its own
    fold = fold if type(fold) is int else None
    same = json.dumps(settings, sort_keys=True)
    about = {"name": name, "folder": folder, "seed": seed, "fold": fold, "same": same, "result": result}
    return {"run": about, "setting": settings, "value": values}


def _one_value(value: Any) -> Any:
    """A setting as one value that can be grouped by: lists as text, text in one line."""
    value = json.dumps(value, sort_keys=True) if isinstance(value, list | dict) else value
    return printable(value) if isinstance(value, str) else value


def _numbers(result: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a result."""
    last = (result.get("history") or [{}])[-1]
    found = {f"{stage}/{printable(name)}": v for stage in STAGES for name, v in (result[stage] or {}).items()}
    found |= {name: value for name, value in last.items() if name.startswith("batch/")}
    found |= {name: result.get(name) for name in ("steps", "selected_step")}
    found["seconds"] = (result.get("seconds") or {}).get("fit")
    found |= flatten({name: result.get(name) for name in LEDGER})
    return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}
