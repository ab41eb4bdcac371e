"""The loggers of every run: a CSV file that survives resuming, and W&B, offline unless the user is logged in."""

import contextlib
import csv
import os
import secrets
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.errors import UserError, one_line
from lifted_lightning.files import atomic
from lifted_lightning.runs.folder import IDENTITY, METRICS, read_metrics
from lifted_lightning.runs.guarded import within


class MetricsFile(Logger):
    """``metrics.csv`` in the run's folder, to which every logging step adds a line; a resumed run adds to it, too.

    What a process that was killed logged after its last checkpoint is logged again and then stands there twice:
    :func:`lifted_lightning.runs.folder.read_metrics` reads each step once. (Lightning's CSVLogger deletes the
    earlier file.)
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / METRICS
        self._columns: list[str] | None = None  # of the file, once this process has looked
        self._rows: list[dict[str, Any]] = []
        self._step = 0  # of the latest line

    @property
    def name(self) -> str:
        return self.path.parent.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The configuration lies in ``config.yaml``."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        values = {k: v.item() if isinstance(v, torch.Tensor) else v for k, v in metrics.items()}
        self._step = self._step if step is None else int(step)  # of a user's own line it may be None, or 4.0
        self._rows.append({**values, "step": self._step})

    @rank_zero_only
    def save(self) -> None:
        """Add the lines to the file; where they bring columns, write it anew."""
        if not self._rows:
            return
        known = self._columns if self._columns is not None else columns_of(self.path)
        columns = list(dict.fromkeys([*(known or ["step"]), *(key for row in self._rows for key in row)]))
        if columns == known:
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerows(self._rows)
        else:
            rows = [*read_metrics(self.path), *self._rows]
            with atomic(self.path, "w") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
        self._columns, self._rows = columns, []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def columns_of(path: Path) -> list[str]:
    """The columns of a CSV file, none where there is no file; a last line that was cut short is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        os.truncate(path, len(whole))
    return next(csv.reader(whole.decode().splitlines()), [])


# W&B

MODES = ("online", "offline", "disabled")
ENVIRONMENT = {  # what wandb.init is given, by the variable that wins over it
    "project": "WANDB_PROJECT",
    "id": "WANDB_RUN_ID",
    "name": "WANDB_NAME",
    "group": "WANDB_RUN_GROUP",
    "job_type": "WANDB_JOB_TYPE",
    "tags": "WANDB_TAGS",
}


def moved_into(folder: Path, logger: Logger) -> Logger:
    """One of Lightning's loggers, which writes below the run's folder where it was given no absolute place.

    TensorBoard's takes pictures and tables from now on.
    """
    place = getattr(logger, "_root_dir", None)
    if isinstance(place, str) and not os.path.isabs(place):
        vars(logger).update(_root_dir=str(folder / place), _save_dir=str(folder / place))
    if type(logger) is TensorBoardLogger:
        logger.__class__ = TensorBoardRecord
    return logger


class TensorBoardRecord(TensorBoardLogger):
    """Lightning's logger, which takes pictures, and tables as text, in the way that W&B's does."""

    def log_image(self, key: str, images: Sequence[str], step: int) -> None:
        """Give it pictures, from their files."""
        for picture in images:
            self.experiment.add_image(key, np.asarray(Image.open(picture).convert("RGB")), step, dataformats="HWC")

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]], step: int) -> None:
        """Give it a table, row by row."""
        import pandas as pd

        self.experiment.add_text(key, pd.DataFrame(data, columns=list(columns)).to_html(index=False), step)


class WandbRecord(WandbLogger):
    """Lightning's logger, which also writes to the run's summary alone, and knows of runs that are told to stop."""

    def log_summary(self, values: Mapping[str, Any]) -> None:
        """Set values of the summary, by name."""
        self.experiment.summary.update(values)

    def mark_preempting(self) -> None:
        """Tell W&B that the run was told to stop and may go on: its sweep hands it out again."""
        self.experiment.mark_preempting()


def log_summary(loggers: Iterable[Logger], values: Mapping[str, Any]) -> None:
    """Set values of W&B's summary, where it records the run."""
    for logger in loggers:
        if isinstance(logger, WandbRecord):
            logger.log_summary(values)


def wandb_mode(patience: float = 30.0) -> str:
    """How W&B records: ``WANDB_MODE`` where it is set, else online for a user who is logged in, else offline.

    Args:
        patience: seconds that the server has to know the user.

    Raises:
        UserError: if ``WANDB_MODE`` is none of W&B's modes.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # reports for which a process waits at its very end
    mode = os.environ.get("WANDB_MODE")
    if mode and mode not in MODES:
        raise UserError(f"WANDB_MODE={mode}: no such mode; set it to {', '.join(MODES)}, or unset it")
    if mode:
        return mode
    import wandb

    try:
        return "online" if within(patience, lambda: wandb.login(prompt=False)) else "offline"
    except (wandb.errors.Error, TimeoutError) as error:  # a key is set, and the server cannot be asked, or refuses it
        return offline_instead(error)


def wandb_logger(folder: Path, mode: str, patience: float = 30.0, **settings: Any) -> WandbRecord:
    """The W&B logger of a run, on rank zero. If the server does not answer, the run is recorded offline.

    What the environment sets (``WANDB_PROJECT``, ``WANDB_NAME`` and so on) wins over ``settings``. So a run that
    a sweep agent of W&B starts is the run that the agent announced.

    Args:
        folder: the run's folder; the record lies below its ``wandb/`` (or ``WANDB_DIR``'s), the run's id, which a
            resumed run continues, and its sweep's, always there (see
            :func:`lifted_lightning.runs.checkpoint.checkpoint_of_trial`). A ``wandb/`` beside the folder has links
            to the records of all runs.
        mode: ``online`` or ``offline``.
        patience: seconds; a quarter of them is what the server has to say whether it takes an artifact.
        **settings: passed to ``wandb.init`` (project, group, name, tags, config).
    """
    import wandb

    identity = folder / IDENTITY
    known = identity.read_text().splitlines() if identity.exists() else []
    settings["id"] = known[0] if known else secrets.token_hex(4)
    taken = [key for key, variable in ENVIRONMENT.items() if os.environ.get(variable)]
    if os.environ.get("WANDB_SWEEP_ID"):  # the agent's run has its project and id
        taken += ["project", "id"]
    settings = {key: value for key, value in settings.items() if key not in taken}
    settings |= {"dir": os.environ.get("WANDB_DIR") or str(folder), "resume": "allow"}
    identity.parent.mkdir(parents=True, exist_ok=True)
    sweep = [os.environ["WANDB_SWEEP_ID"]] if os.environ.get("WANDB_SWEEP_ID") else known[1:]
    identity.write_text("\n".join([settings.get("id") or os.environ.get("WANDB_RUN_ID", ""), *sweep]))
    if mode != "offline":
        try:
            run = wandb.init(settings=wandb.Settings(console="off", init_timeout=8), **settings)
        except wandb.errors.Error as error:
            mode = offline_instead(error)
    if mode == "offline":
        run = wandb.init(settings=wandb.Settings(mode="offline", console="off", silent=True), **settings)
    run.log_artifact = _artifacts_of_tables_if_taken(run.log_artifact, patience / 4)  # type: ignore[method-assign]
    _list_beside_others(Path(run.dir).parent, folder.parent / "wandb")
    # Pictures are logged when they are finished, with the step that they show: steps are a metric like others.
    # Summaries stay plain numbers, the last ones: sweeps and plots read them by the metric's own name.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbRecord(experiment=run, save_dir=str(folder))


def _artifacts_of_tables_if_taken(log: Callable[..., Any], patience: float) -> Callable[..., Any]:
    """W&B's ``log_artifact``, which gives the server what W&B makes of a table; from the first not taken on, none.

    A user's own artifacts are logged as before, whatever became of a table's.
    """
    taken = True

    def log_artifact(artifact: Any, *more: Any, **named: Any) -> Any:
        nonlocal taken
        if getattr(artifact, "type", None) != "run_table":
            return log(artifact, *more, **named)
        try:
            return within(patience, lambda: log(artifact, *more, **named)) if taken else None
        except Exception as error:
            taken = False
            why = f"{type(error).__name__}: {one_line(error)}"
            rank_zero_warn(f"W&B: tables are recorded, but not as artifacts ({why})")

    return log_artifact


def _list_beside_others(record: Path, shared: Path) -> None:
    """Link a record into a folder that `wandb leet` shows, and `wandb sync` uploads, as a whole."""
    with contextlib.suppress(OSError):  # a file system without links: each run has its own folder still
        shared.mkdir(exist_ok=True)
        (shared / record.name).symlink_to(os.path.relpath(record, shared), target_is_directory=True)


def offline_instead(error: Exception) -> str:
    """Say that the server does not answer, and forget it; returns the mode to go on in."""
    end_wandb_service()
    print(f"W&B cannot be reached ({type(error).__name__}): recording offline; `wandb sync` uploads later")
    return "offline"


def end_record(patience: float, exit_code: int) -> None:
    """End this process's record with W&B, if there is one; where its server does not take it, say what to upload.

    Args:
        patience: seconds that it has for that.
        exit_code: 0 for a run that went well.
    """
    run = getattr(sys.modules.get("wandb"), "run", None)
    if run is None:
        return
    record = os.path.relpath(Path(run.dir).parent)
    try:
        within(patience, lambda: run.finish(exit_code))
    except (Exception, SystemExit) as error:
        end_wandb_service()
        died = f"{one_line(error)}: W&B's own process has died, and its record lacks the end; {METRICS} has all"
        why = f"no end after {patience:g} s" if isinstance(error, TimeoutError) else died
        print(
            f"W&B has not taken all of the record ({why}); to upload it: wandb sync --no-skip-online {record}",
            flush=True,
        )


def end_wandb_service(patience: float = 2.0) -> None:
    """End W&B's own process; if it waits for a server that is away, which may be for ever, by force.

    Args:
        patience: seconds that it has to end by itself.
    """
    import wandb

    connection: Any = wandb.setup()._connection  # there is no public way
    if connection is None:
        return
    killer = threading.Timer(patience, connection._proc._process.kill)
    killer.start()
    with contextlib.suppress(Exception, SystemExit):  # which W&B raises if its process was killed, or has died
        wandb.teardown()
    killer.cancel()
