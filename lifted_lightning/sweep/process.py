"""In the process that Ray gives a trial: `lifted fit` runs to its end, alone in the trial's folder."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
    folder, deadline = trial.folder, time.monotonic() + PATIENCE
    folder.mkdir(parents=True, exist_ok=True)
    held = None
    try:
        held = _wait_for(folder, HELD, deadline)
        if trial.ended:  # on a machine that was lost before it could say so
            return 0
        free = _wait_for(folder, LOCK, deadline)
        goes_on = (folder / CHECKPOINTS / "last.ckpt").exists()
        if not goes_on:  # it was killed before its first checkpoint, and starts anew
            for entry in folder.iterdir():
                if entry.name not in KEPT:
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if not (folder / TRIAL).exists():
            trial.write()
        os.close(free)
        own = [f"--runs_dir={folder.parent.parent}", f"--experiment={folder.parent.name}", f"--name={folder.name}"]
        return _fit(folder, [*trial.arguments, *more, *own, *["--ckpt_path=last"] * goes_on], variables)
    except UserError as error:
        with open(folder / LOG, "a", encoding="utf-8") as log:
            log.write(f"lifted sweep: {error}\n")
        return 2
    finally:
        if held is not None:
            os.close(held)


def _fit(folder: Path, arguments: list[str], variables: Mapping[str, str]) -> int:
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "lifted_lightning.cli", "fit", *arguments],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **variables},
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
