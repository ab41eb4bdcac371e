"""In the process that Ray gives a trial: `lifted fit` runs to its end, alone in the trial's folder."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CHECKPOINTS, LOCK, lock
from lifted_lightning.sweep.trials import TRIAL, Trial

LOG = "log.txt"  # of a trial's folder: what its `lifted fit` prints
HELD = ".trial.lock"  # of whoever runs the trial, from before its run starts until after it has ended
KEPT = (LOG, TRIAL, HELD, LOCK)  # of a folder whose run starts anew
PATIENCE = 60.0  # seconds that a trial waits for the last process of a killed sweep to leave its folder
POLL = 0.2
PR_SET_PDEATHSIG = 1  # of prctl


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
        if not goes_on:
            _start_anew(folder)
        if not (folder / TRIAL).exists():
            trial.write()
        os.close(free)
        own = [f"--runs_dir={folder.parent.parent}", f"--experiment={folder.parent.name}", f"--name={folder.name}"]
        own += ["--ckpt_path=last"] if goes_on else []
        return _fit(folder, [*trial.arguments, *more, *own], variables)
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
            preexec_fn=_end_with_parent,
        )  # fmt: skip
    try:
        while process.poll() is None:
            time.sleep(POLL)  # Ray interrupts this, but no wait for a process
    finally:
        process.terminate()
        process.wait()
    return process.returncode


def _start_anew(folder: Path) -> None:
    """Remove what a run left that was killed before its first checkpoint."""
    for entry in folder.iterdir():
        if entry.name not in KEPT:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


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


def _end_with_parent() -> None:
    """Have the kernel stop the run when Ray's process ends, so that a killed sweep leaves nothing running."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
