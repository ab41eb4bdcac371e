"""Finds run folders and reads each one's ``result.json``; what cannot be counted is named."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifted_lightning import runs
from lifted_lightning.errors import UserError
from lifted_lightning.report.defaults import complete

STAGES = ("test", "validation")

# What a run is called, where it lies, the machine it used and the pictures it drew do not make it another run.
_ASIDE = (
    "seed_everything", "name", "experiment", "runs_dir", "ckpt_path", "weights_only", "test", "evaluation.baseline",
)  # fmt: skip
_ASIDE_GROUPS = ("tsne", "gallery", "last_checkpoint")
_ASIDE_DATA = ("root", "workers", "cache", "cache_dir", "eval_batch_size")
_ASIDE_TRAINER = (
    "accelerator", "strategy", "devices", "num_nodes", "logger", "log_every_n_steps", "profiler",
    "enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams",
    "default_root_dir", "use_distributed_sampler", "num_sanity_val_steps",
)  # fmt: skip
# These stand in the settings under shorter names.
_RENAMED = ("model.network.init_args.embedding_size", "data.dataset.class_path")
# What the loss and the optimiser are does not matter to a network that has taken no step.
_OF_TRAINING = ("model.loss", "model.optimizer", "model.scheduler", "model.head_lr_factor")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        name: its folder's name and that of the folder above, ``sweep/trial``.
        folder: where it lies.
        settings: its configuration, flattened, without seed, names, and what is of the machine; and
            ``dataset`` and ``embedding_size``.
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
            raise UserError(
                f"{path}: no run below it (no {runs.RESULT}); give run folders, or one above them"
            )
    warnings, found = [], []
    for folder, name in sorted(finished.items(), key=lambda item: (item[1], item[0])):
        run = _load(folder, name)
        if isinstance(run, Run):
            found.append(run)
        else:
            warnings.append(run)
    if unfinished:
        warnings.append(
            f"{listed(sorted(unfinished))}: no {runs.RESULT}, failed or unfinished, not counted; look at log.txt "
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
    if folder.name == runs.RESULT:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: no such folder; give run folders, or a folder above them")
    return folder.resolve()


def _run_folders(top: Path) -> Iterator[tuple[Path, bool]]:
    """Run folders at or below this one, and whether each has its result; nothing within a run is looked at."""
    for folder, below, files in os.walk(top):
        if runs.RESULT in files or runs.CONFIG in files:
            below.clear()
            yield Path(folder), runs.RESULT in files


def _load(folder: Path, name: str) -> Run | str:
    """The run, or a line that says what is wrong with its file."""
    try:
        result = json.loads((folder / runs.RESULT).read_bytes())
    except (OSError, ValueError) as error:
        return (
            f"{name}/{runs.RESULT}: cannot be read ({str(error)[:80]}), not counted; remove it and run again"
        )
    try:
        settings = runs.flatten(result["config"])
        if not any(result[stage] for stage in STAGES):
            return f"{name}/{runs.RESULT}: has no metrics, not counted; run again"
        own = {"dataset": result["dataset"], "embedding_size": result["embedding_size"]}
    except (KeyError, TypeError, AttributeError) as error:
        return (
            f"{name}/{runs.RESULT}: is not a run's result ({error!r}), not counted; remove it and run again"
        )
    run = Run(name, folder, own | {k: _number(v) for k, v in settings.items() if _counts(k)}, result)
    if run.untrained:
        for key in [key for key in run.settings if key.startswith(_OF_TRAINING)]:
            del run.settings[key]
    return run


def _number(value: Any) -> Any:
    """1 for 1.0: which of them a configuration says is chance."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _counts(key: str) -> bool:
    top, _, rest = key.partition(".")
    if top in _ASIDE_GROUPS or key in _ASIDE or key in _RENAMED:
        return False
    return not ((top == "data" and rest in _ASIDE_DATA) or (top == "trainer" and rest in _ASIDE_TRAINER))


def _one_stage(found: list[Run]) -> tuple[list[Run], str, list[str]]:
    """The runs evaluated on the test classes; if there are none, all of them, by their validation classes."""
    tested = [run for run in found if run.result["test"]]
    if not tested:
        return found, "validation", ["no run has test metrics: these are of the validation classes"]
    others = [run.name for run in found if not run.result["test"]]
    line = (
        f"{listed(others)}: evaluated on the validation classes only, not counted; run `lifted test` on them"
    )
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
    for row in runs.read_metrics(folder / runs.METRICS):
        if row.get("validation/map@r"):
            values = {key: float(v) for key, v in row.items() if key.startswith("validation/") and v}
            yield {"step": int(row["step"]) + 1, **values}
