"""Ray runs the trials: the loop that hands them out, stops those that fall behind, and tells how they end."""

import os
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from lifted_lightning.errors import UserError
from lifted_lightning.processes import cores
from lifted_lightning.sweep.plan import Sweep
from lifted_lightning.sweep.process import LOG, run_trial
from lifted_lightning.sweep.trials import Trial

if TYPE_CHECKING:
    from lifted_lightning.sweep.search import Search

ANSWER_PATIENCE = 20.0  # seconds that a cluster has to answer
STOP_PATIENCE = 30.0  # seconds that interrupted trials have to save a checkpoint and end
LOST_MACHINES = 2  # times that a trial starts again elsewhere when its machine is lost
WAIT = 1.0  # seconds between looks at the trials that run
LAST_LINES = 5  # of a failed trial's log
say = partial(print, flush=True)
PASSED = ("LIFTED_", "WANDB_", "PYTHONPATH")  # variables of here that trials on other machines get, too


def start_ray(address: str | None) -> Any:
    """Connect to the cluster at an address; None starts Ray here, on the loopback interface, without a dashboard.

    Returns:
        The module ``ray``.

    Raises:
        UserError: if no cluster answers.
    """
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        # Without it Ray listens on every interface, whatever else it is told. Only for a Ray of our own.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_worker_niceness", "0")  # as if run by hand; Ray's own is 15
        # Trials get SIGTERM when Ray's processes end, and save a checkpoint: Ray would kill them.
        os.environ.update(RAY_kill_child_processes_on_worker_exit="0")
        import ray

        ray.init("local", num_cpus=cores(), include_dashboard=False, object_store_memory=100 * 1024**2, **quiet)
        return ray
    import ray

    try:
        if not address.startswith("ray://"):  # whose client gives up by itself; the other tries for minutes
            check = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
            subprocess.run(check, check=True, capture_output=True, timeout=ANSWER_PATIENCE)
        ray.init(address, **quiet)
    except (subprocess.SubprocessError, ConnectionError, ValueError, RuntimeError):
        raise UserError(f"--address {address}: no Ray cluster answers there; start one, or give another") from None
    return ray


class Pool:
    """Runs trials on Ray.

    Args:
        ray: the module, connected.
        cpus: CPU cores of a trial.
        gpus: GPUs of a trial; None for one where there are any.

    Raises:
        UserError: if no machine has as much.
    """

    def __init__(self, ray: Any, cpus: float, gpus: float | None) -> None:
        gpus = float("GPU" in ray.cluster_resources()) if gpus is None else gpus
        self.ray, self.cpus, self.gpus = ray, cpus, gpus
        if self.slots() < 1:
            raise UserError(
                f"a trial asks for {cpus:g} CPU cores and {gpus:g} GPUs, but no machine has as many; "
                "give less with --cpus-per-trial and --gpus-per-trial"
            )
        self._task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=LOST_MACHINES)(run_trial)
        self._more = [f"--trainer.devices={max(1, int(gpus))}"] if gpus else []  # a share of one GPU is one
        self._variables = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
        self._variables["OMP_NUM_THREADS"] = str(max(1, int(cpus)))
        if not gpus:
            self._variables["CUDA_VISIBLE_DEVICES"] = ""
        self._live: dict[Any, Trial] = {}

    def slots(self) -> int:
        """How many trials can run at once, on the nodes that are there now."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        by_cpus = [int(node.get("CPU", 0) / self.cpus + 1e-9) for node in nodes]
        if not self.gpus:
            return sum(by_cpus)
        of_one, whole = int(1 / self.gpus + 1e-9) or 1, max(1, int(self.gpus))  # a share lies on one GPU
        return sum(
            min(fits, int(node.get("GPU", 0)) * of_one // whole) for fits, node in zip(by_cpus, nodes, strict=True)
        )

    def start(self, trial: Trial) -> None:
        """Hand a trial over."""
        self._live[self._task.remote(trial, self._more, self._variables, os.getcwd())] = trial

    def running(self) -> list[Trial]:
        """The trials that were handed over, as long as :meth:`wait` has not told how they ended."""
        return list(self._live.values())

    def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
        """The trials that have ended by now, with their exit codes (None for a machine that was lost)."""
        self.ray.wait(list(self._live), timeout=seconds)
        done, _ = self.ray.wait(list(self._live), num_returns=len(self._live), timeout=0)
        return [(self._live.pop(task), self._code(task)) for task in done]

    def stop(self, trials: list[Trial]) -> None:
        """Have trials save a checkpoint and end."""
        for task, trial in self._live.items():
            if trial in trials:
                self.ray.cancel(task)

    def close(self) -> None:
        """Stop what still runs, and Ray if it is our own."""
        if self._live:
            self.stop(self.running())
            self.ray.wait(list(self._live), num_returns=len(self._live), timeout=STOP_PATIENCE)
        self.ray.shutdown()

    def _code(self, task: Any) -> int | None:
        try:
            return int(self.ray.get(task))
        except self.ray.exceptions.RayError:
            return None


def run_trials(search: "Search", pool: Pool, retries: int, progress: "Progress") -> None:
    """Hand out trials until there are no more, and follow them.

    Args:
        search: gives them.
        pool: runs them.
        retries: times that a failed trial is run again.
        progress: is told how they go.
    """
    failures: Counter[str] = Counter()  # by digest
    while True:
        while len(pool.running()) < max(1, pool.slots()) and (trial := search.next()):
            say(f"started {trial.folder.name}")
            pool.start(trial)
        if not pool.running():
            return
        for trial, code in pool.wait(WAIT):
            reason = "its machine was lost" if code is None else f"it ended with code {code} and without a result"
            failures[trial.digest] += not trial.ended
            if trial.ended or failures[trial.digest] > retries:
                search.tell(trial)
                progress.ended(trial, reason)
            else:
                say(f"{trial.folder.name}: {reason}; it goes on from its last checkpoint")
                pool.start(trial)
        behind = [trial for trial in pool.running() if search.falls_behind(trial)]
        for trial in behind:
            trial.write(stopped=True)
        pool.stop(behind)


class Progress:
    """Tells how the trials of a sweep go, and counts them.

    Args:
        sweep: the sweep.
        ended: the trials that had ended before.
        total: how many trials there will be.
    """

    def __init__(self, sweep: Sweep, ended: list[Trial], total: int) -> None:
        self.sweep = sweep
        self.total = total
        self.failed: list[Trial] = []
        self._ended, self._before = list(ended), len(ended)
        self._began = time.monotonic()

    @property
    def tried(self) -> list[Trial]:
        """The trials that have ended, those that failed among them."""
        return [*self._ended, *self.failed]

    def ended(self, trial: Trial, reason: str) -> None:
        """A trial has its result, was stopped early, or has failed, for a reason, for the last time."""
        if not trial.ended:
            self.failed.append(trial)
            say(f"failed {trial.folder.name}: {reason}")
            return
        self._ended.append(trial)
        score, count = trial.score(self.sweep.metric), len(self._ended)
        value = "" if score is None else f"  {self.sweep.metric} {score:.4f}"
        minutes = (time.monotonic() - self._began) / 60 / (count - self._before) * (self.total - count)
        say(f"{trial.state} {trial.folder.name}{value}  ({count} of {self.total}, about {minutes:.0f} min left)")

    def summary(self) -> str:
        """The counts, the best trial, and the last lines of those that failed."""
        states = Counter(trial.state for trial in self._ended)
        text = f"{self.sweep.name}: {states['done']} of {self.total} done"
        text += f", {states['stopped']} stopped early" if states["stopped"] else ""
        text += f", {len(self.failed)} failed" if self.failed else ""
        scores = [(s, t.folder.name) for t in self._ended if (s := t.score(self.sweep.metric)) is not None]
        if scores:
            score, name = max(scores) if self.sweep.maximize else min(scores)
            text += f", best {self.sweep.metric} {score:.4f} ({name})"
        for trial in self.failed:
            log = trial.folder / LOG
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.exists() else []
            text += "\n  ".join([f"\nfailed: {log}", *lines[-LAST_LINES:]])
        return text
