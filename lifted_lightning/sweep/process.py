"""In the process that runs a trial, Ray's or a job array's: `lifted fit` to its end, alone in the trial's folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from lifted_lightning.errors import UserError
from lifted_lightning.processes import end_with_parent
from lifted_lightning.runs.folder import CHECKPOINTS, LOCK, lock
from lifted_lightning.sweep.trials import TRIAL, Trial

LOG = "log.txt"  # of a trial's folder: what its `lifted fit` prints
HELD = ".trial.lock"  # of whoever runs the trial, from before its run starts until after it has ended
KEPT = (LOG, TRIAL, HELD, LOCK)  # of a folder whose run starts anew
PATIENCE = 60.0  # seconds that a trial waits for the last process of a killed sweep to leave its folder
POLL = 0.2


def run_trial(trial: Trial, more: Sequence[str], variables: Mapping[str, str], cwd: str) -> int:
    """Run a trial's `lifted fit` to its end, from its last checkpoint if there is one; returns the exit code.

    A folder in which another process is at work is left as it is; the log says so. Cancelled by Ray, which raises
    KeyboardInterrupt here, the run saves a checkpoint and ends first.

    Args:
        trial: which.
        more: arguments besides the trial's own.
        variables: of the environment.
        cwd: the working folder.
    """
    os.chdir(cwd)
    try:
        with held(trial) as left:  # else it has ended on a machine that was lost before it could say so
            return _fit(trial.folder, fit_arguments(trial, more), variables) if left else 0
    except UserError as error:
        with open(trial.folder / LOG, "a", encoding="utf-8") as log:
            log.write(f"lifted sweep: {error}\n")
        return 2


@contextmanager
def held(trial: Trial) -> Iterator[bool]:
    """Hold a trial's folder, ready for its run to begin or to go on; gives whether anything of it is left to run.

    Raises:
        UserError: if another process is at work there, and stays.
    """
    folder, deadline = trial.folder, time.monotonic() + PATIENCE
    folder.mkdir(parents=True, exist_ok=True)
    whole = _wait_for(folder, HELD, deadline)
    try:
        if left := not trial.ended:
            free = _wait_for(folder, LOCK, deadline)
            if not _goes_on(trial):  # it was killed before its first checkpoint, and starts anew
                for entry in folder.iterdir():
                    if entry.name not in KEPT:
                        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not (folder / TRIAL).exists():
                trial.write()
            os.close(free)
        yield left
    finally:
        os.close(whole)


def fit_arguments(trial: Trial, more: Sequence[str]) -> list[str]:
    """What `lifted fit` is given to run a trial in its folder, from its last checkpoint if there is one."""
    folder = trial.folder
    own = [f"--runs_dir={folder.parent.parent}", f"--experiment={folder.parent.name}", f"--name={folder.name}"]
    return [*trial.arguments, *more, *own, *["--ckpt_path=last"] * _goes_on(trial)]


def _goes_on(trial: Trial) -> bool:
    return (trial.folder / CHECKPOINTS / "last.ckpt").exists()


def _fit(folder: Path, arguments: list[str], variables: Mapping[str, str]) -> int:
    # Within a job of SLURM Lightning would take the trial for one of the job's own ranks.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")} | {**variables}
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lifted_lightning.cli", "fit", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            preexec_fn=partial(end_with_parent, os.getpid(), signal.SIGTERM),  # a killed sweep leaves nothing running
        )  # fmt: skip
    try:
        while process.poll() is None:
            time.sleep(POLL)  # Ray interrupts this, but no wait for a process
    finally:
        process.terminate()
        process.wait()
    return process.returncode


def _wait_for(folder: Path, name: str, deadline: float) -> int:
    """Hold a lock of the folder's as soon as nobody else does.

    Raises:
        UserError: if somebody else holds it still at the deadline.
    """
    while True:
        try:
            return lock(folder, name)
        except UserError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL)
