"""Ray: where trials run, each as a `lifted fit` in a process of its own with the cores and GPUs it was given."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lifted_lightning.errors import UserError
from lifted_lightning.runs.folder import CHECKPOINTS, LOCK, RESULT, lock
from lifted_lightning.sweep.trials import LOG, STOPPED, TRIAL, Trial

PR_SET_PDEATHSIG = 1  # of prctl
PASSED = ("LIFTED_", "WANDB_", "PYTHONPATH")  # variables of here that trials on other machines get, too
LOCK_PATIENCE = 60.0  # seconds that a trial waits for the last process of a killed sweep to leave its folder
HELD = ".trial.lock"  # of whoever runs the trial, from before its run starts until after it has ended
POLL = 0.2
STOP = ".stop"  # in a trial's folder: it should save a checkpoint and end, to go on another time
STOP_PATIENCE = 30.0
KEPT = (LOG, TRIAL, HELD, LOCK)  # of a folder whose run starts anew
LOST_WORKERS = 2  # times that a trial starts again elsewhere when its machine is lost


@dataclass(frozen=True)
class Resources:
    """What one trial gets."""

    cpus: float
    gpus: float

    def arguments(self) -> list[str]:
        """As many devices as it was given GPUs; a share of one is one."""
        return [f"--trainer.devices={max(1, int(self.gpus))}"] if self.gpus else []

    def variables(self) -> dict[str, str]:
        """On the CPU its threads are its cores, and it sees no GPU."""
        threads = {"OMP_NUM_THREADS": str(max(1, int(self.cpus)))}
        return threads if self.gpus else threads | {"CUDA_VISIBLE_DEVICES": ""}


class Pool:
    """Runs trials on Ray: on a cluster where there is an address, else on one started here, for this machine alone.

    Args:
        address: of a cluster; None starts Ray here, on the loopback interface only and without a dashboard.
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial; None for one where there are any.
    """

    def __init__(self, address: str | None, cpus: float, gpus: float | None) -> None:
        ray = self._ray = _start(address)
        self.resources = Resources(cpus, self._default_gpus() if gpus is None else gpus)
        self._live: dict[Any, Trial] = {}
        self._task = ray.remote(num_cpus=cpus, num_gpus=self.resources.gpus, max_retries=LOST_WORKERS)(run_trial)
        if self.slots() < 1:
            there = ray.cluster_resources()
            raise UserError(
                f"a trial asks for {cpus:g} CPU cores and {self.resources.gpus:g} GPUs, but there are "
                f"{there.get('CPU', 0):g} and {there.get('GPU', 0):g}; "
                "give less with --cpus-per-trial and --gpus-per-trial"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Has what still runs save a checkpoint and end."""
        for trial in self.running():
            (trial.folder / STOP).touch()
        if self._live:
            self._ray.wait(list(self._live), num_returns=len(self._live), timeout=STOP_PATIENCE)
        self._ray.shutdown()

    def slots(self) -> int:
        """How many trials can run at once, on the nodes that are there now."""
        counts = []
        for node in self._ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                fits = there.get("CPU", 0) / self.resources.cpus if self.resources.cpus else float("inf")
                if self.resources.gpus:
                    fits = min(fits, _shares(there.get("GPU", 0), self.resources.gpus))
                counts.append(int(fits + 1e-9))
        return sum(counts)

    def start(self, trial: Trial) -> None:
        """Hand a trial over."""
        variables = {k: v for k, v in os.environ.items() if k.startswith(PASSED)}
        variables |= self.resources.variables()
        arguments = [*trial.arguments, *self.resources.arguments()]
        self._live[self._task.remote(str(trial.folder), arguments, variables, os.getcwd())] = trial

    def running(self) -> list[Trial]:
        """The trials that were handed over and have not ended."""
        return list(self._live.values())

    def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
        """The trials that have ended by now, with their exit codes (None for a machine that was lost)."""
        if not self._live:
            return []
        done, _ = self._ray.wait(list(self._live), num_returns=len(self._live), timeout=0)
        if not done:
            done, _ = self._ray.wait(list(self._live), num_returns=1, timeout=seconds)
        return [(self._live.pop(task), self._code(task)) for task in done]

    def _code(self, task: Any) -> int | None:
        try:
            code: int = self._ray.get(task)
        except self._ray.exceptions.RayError:
            return None
        return code

    def _default_gpus(self) -> float:
        return 1.0 if self._ray.cluster_resources().get("GPU", 0) else 0.0


def _shares(gpus: float, each: float) -> float:
    """Trials that fit on whole GPUs, or on shares of one: a share lies on one GPU."""
    return gpus // each if each >= 1 else int(gpus) * int(1 / each + 1e-9)


def _start(address: str | None) -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        # Without it Ray listens on every interface, whatever else it is told. Only for a Ray of our own.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_worker_niceness", "0")  # as if run by hand; Ray's own is 15
        # Trials get SIGTERM when Ray's processes end, and save a checkpoint: Ray would kill them.
        os.environ.update(RAY_kill_child_processes_on_worker_exit="0")
    try:
        import ray
    except ImportError as error:
        raise UserError("sweeps need Ray and Optuna: pip install 'lifted-lightning[sweep]'") from error
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ray.init("local", num_cpus=cores, include_dashboard=False, object_store_memory=100 * 1024**2, **quiet)
        return ray
    try:
        ray.init(address, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--address {address}: no Ray cluster answers there ({reason})") from error
    return ray


# In the process that Ray gives a trial


def run_trial(folder: str, arguments: list[str], variables: Mapping[str, str], cwd: str) -> int:
    """Run `lifted fit` to its end in its folder, from its last checkpoint if there is one; returns the exit code.

    A folder in which another process is at work is left as it is; the log says so.
    """
    path = Path(folder)
    os.chdir(cwd)
    deadline = time.monotonic() + LOCK_PATIENCE
    try:
        held = _wait_for(path, HELD, deadline)
    except UserError as error:
        return _give_up(path, error)
    try:
        if (path / RESULT).exists():  # ended already, on a machine that was lost before it could say so
            return 0
        lock = _wait_for(path, LOCK, deadline)
        (path / STOP).unlink(missing_ok=True)
        goes_on = (path / CHECKPOINTS / "last.ckpt").exists()
        if not goes_on:
            _start_anew(path)
        os.close(lock)
        own = [f"--runs_dir={path.parent.parent}", f"--experiment={path.parent.name}", f"--name={path.name}"]
        return _fit(path, [*arguments, *own, *(["--ckpt_path=last"] if goes_on else [])], variables)
    except UserError as error:
        return _give_up(path, error)
    finally:
        os.close(held)


def _fit(folder: Path, arguments: list[str], variables: Mapping[str, str]) -> int:
    command = [sys.executable, "-m", "lifted_lightning.cli", "fit", *arguments]
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **variables},
            preexec_fn=_end_with_parent,
        )  # fmt: skip
        while process.poll() is None:
            if (folder / STOPPED).exists() or (folder / STOP).exists():
                process.terminate()
                process.wait()
            time.sleep(POLL)
    return process.returncode


def _give_up(folder: Path, error: UserError) -> int:
    with open(folder / LOG, "a", encoding="utf-8") as log:
        log.write(f"lifted sweep: {error}\n")
    return 2


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
    """Have the kernel stop the trial when Ray's process ends, so that a killed sweep leaves nothing running."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
