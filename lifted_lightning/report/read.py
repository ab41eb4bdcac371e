"""Finds run folders and reads each one's ``result.json``; what cannot be counted is named."""

import inspect
import json
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CONFIG, METRICS, RESULT, read_metrics
from lifted_lightning.runs.settings import comparable

STAGES = ("test", "validation")


# What the loss and the optimiser are does not matter to a network that has taken no step.
_OF_TRAINING = ("model.loss", "model.optimizer", "model.scheduler", "model.head_lr_factor")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: its folder's name and that of the folder above, ``sweep/trial``.
        folder: where it lies.
        settings: what makes it what it is, but for its seed (see ``runs.settings.comparable``).
        result: its ``result.json``.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    result: dict[str, Any]

    @property
    def seed(self) -> int | str:
        """The seed; a run without one has a seed of its own."""
        seed = self.result.get("seed")
        return f"none ({self.name})" if seed is None or isinstance(seed, bool) else seed

    @property
    def untrained(self) -> bool:
        """Whether the network is as it was drawn."""
        return self.result.get("steps") == 0

    def history(self) -> list[dict[str, Any]]:
        """One row a validation; from ``metrics.csv``, without seconds, where ``result.json`` has none."""
        rows: list[dict[str, Any]] = self.result.get("history") or []
        return rows if any("validation/map@r" in row for row in rows) else list(_logged(self.folder))


@dataclass
class Found:
    """What lies below the folders given: the runs that count, sorted by name, and lines on those that do not."""

    runs: list[Run]
    stage: str
    warnings: list[str] = field(default_factory=list)


def read(paths: Sequence[str]) -> Found:
    """The runs at or below these folders.

    Raises:
        UserError: for a path that is not there, and if there is no finished run below it.
    """
    finished: dict[Path, str] = {}
    unfinished: set[str] = set()
    for path in paths:
        before = len(finished) + len(unfinished)
        seen = 0
        for folder, done in _run_folders(_folder(path)):
            seen += 1
            name = f"{folder.parent.name}/{folder.name}"
            if done:
                finished[folder] = name
            else:
                unfinished.add(name)
        if not seen and before == len(finished) + len(unfinished):
            raise UserError(f"{path}: no run below it (no {RESULT}); give run folders, or one above them")
    warnings, found = [], []
    for folder, name in sorted(finished.items(), key=lambda item: (item[1], item[0])):
        run = _load(folder, name)
        if isinstance(run, Run):
            found.append(run)
        else:
            warnings.append(run)
    if unfinished:
        warnings.append(
            f"{listed(sorted(unfinished))}: no {RESULT}, failed or unfinished, not counted; look at log.txt "
            "there, and give the sweep again, or `lifted fit --config RUN/config.yaml --ckpt_path=last`"
        )
    complete(run.settings for run in found)
    if not found:
        raise UserError(f"{', '.join(paths)}: no finished run; " + "; ".join(warnings))
    found, stage, more = _one_stage(found)
    found, repeated = _once_each(found)
    return Found(found, stage, [*warnings, *more, *repeated])


def listed(names: Sequence[str], most: int = 6) -> str:
    """Names in one line, the first few of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _folder(path: str) -> Path:
    folder = Path(path)
    if folder.name == RESULT:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; give run folders, or a folder above them")
    return folder.resolve()


def _run_folders(top: Path) -> Iterator[tuple[Path, bool]]:
    """Run folders at or below this one, and whether each has its result; nothing within a run is looked at."""
    for folder, below, files in os.walk(top):
        if RESULT in files or CONFIG in files:
            below.clear()
            yield Path(folder), RESULT in files


def _load(folder: Path, name: str) -> Run | str:
    """The run, or a line that says what is wrong with its file."""
    try:
        result = json.loads((folder / RESULT).read_bytes())
    except (OSError, ValueError) as error:
        return f"{name}/{RESULT}: cannot be read ({str(error)[:80]}), not counted; remove it and run again"
    try:
        if not any(result[stage] for stage in STAGES):
            return f"{name}/{RESULT}: has no metrics, not counted; run again"
        settings = comparable(result["config"], result)
    except (KeyError, TypeError, AttributeError) as error:
        return f"{name}/{RESULT}: is not a run's result ({error!r}), not counted; remove it and run again"
    run = Run(name, folder, settings, result)
    if run.untrained:
        for key in [key for key in run.settings if key.startswith(_OF_TRAINING)]:
            del run.settings[key]
    return run


def _one_stage(found: list[Run]) -> tuple[list[Run], str, list[str]]:
    """The runs evaluated on the test classes; if there are none, all of them, by their validation classes."""
    tested = [run for run in found if run.result["test"]]
    if not tested:
        return found, "validation", ["no run has test metrics: these are of the validation classes"]
    others = [run.name for run in found if not run.result["test"]]
    line = f"{listed(others)}: evaluated on the validation classes only, not counted; run `lifted test` on them"
    return tested, "test", [line] if others else []


def _once_each(found: list[Run]) -> tuple[list[Run], list[str]]:
    """One run for each configuration and seed."""
    first: dict[tuple[str, int | str], Run] = {}
    repeated = []
    for run in found:
        kept = first.setdefault((identity(run), run.seed), run)
        if kept is not run:
            repeated.append(f"{run.name} (as {kept.name})")
    line = f"same configuration and seed as another run, counted once: {listed(repeated)}"
    return list(first.values()), [line] if repeated else []


def identity(run: Run) -> str:
    """The same for runs that differ in their seed only."""
    return json.dumps(run.settings, sort_keys=True)


def numbers(values: Iterable[Any]) -> list[float]:
    """The finite numbers among these."""
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]


def _logged(folder: Path) -> Iterator[dict[str, float]]:
    for row in read_metrics(folder / METRICS):
        if row.get("validation/map@r"):
            values = {key: float(v) for key, v in row.items() if key.startswith("validation/") and v}
            yield {"step": int(row["step"]) + 1, **values}


OWN = "lifted_lightning."


PLACES = ("model.loss", "model.network", "model.augment")


def complete(runs: Iterable[dict[str, Any]]) -> None:
    """Give each run's settings the options that other runs of the same class have and it does not.

    A new option keeps, by default, what was there before it; so a run from before is not another for want of it.
    Classes of others are left alone. Nothing is imported where no run lacks an option.

    Args:
        runs: flattened settings, changed in place.
    """
    classes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for settings in runs:
        for place in PLACES:
            path = settings.get(f"{place}.class_path")
            if isinstance(path, str) and path.startswith(OWN):
                classes[place, path].append(settings)
    for (place, path), having in classes.items():
        start = f"{place}.init_args."
        names = {key.removeprefix(start) for settings in having for key in settings if key.startswith(start)}
        lacking = [settings for settings in having if any(start + name not in settings for name in names)]
        defaults = _defaults(path) if lacking else {}
        for settings in lacking:
            for name in names & defaults.keys():
                settings.setdefault(start + name, defaults[name])


def _defaults(path: str) -> dict[str, Any]:
    """What a class's arguments are by default; nothing where this version has no such class."""
    module, _, name = path.rpartition(".")
    try:
        arguments = inspect.signature(getattr(import_module(module), name)).parameters.values()
    except (ImportError, AttributeError):
        return {}
    return {a.name: a.default for a in arguments if isinstance(a.default, bool | int | float | str)}
