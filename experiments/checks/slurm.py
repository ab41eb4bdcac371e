"""A SLURM of two machines on the loopback interface, and whether runs come through what it does to them.

    python -m experiments.checks.slurm                 # the whole table
    python -m experiments.checks.slurm --only array
    python -m experiments.checks.slurm --keep          # the cluster alone, to try by hand; Ctrl-C ends it

It needs Debian's packages slurmctld, slurmd, slurm-client and munge (``apt-get install --no-install-recommends``),
and no rights or services besides: all daemons are started here, keep their files in one temporary folder, listen on
127.0.0.1 alone, and end with this script. The jobs are the scripts of `experiments/slurm/`, on CPUs. What they leave is
compared with runs that nothing has ended, to the last bit, as in `experiments.checks.resuming`.
"""

import argparse
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning.errors import one_line
from lifted_lightning.runs.folder import CHECKPOINTS, METRICS, RESULT, read_metrics
from tests.helpers.ranks import free_port
from tests.training.test_resume import BASE, STEPS, assert_same_run

ROOT = Path(__file__).parents[2]
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
# the states of a job that come last; any other may still change ("SIGNALING" while a signal is on its way)
ENDED = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
]
PATIENCE = 240.0  # seconds that a job may take to come to a state
NODES = ("node1", "node2")
CONFIGURATION = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
PartitionName=all Nodes=ALL Default=YES State=UP
"""


class Slow(Callback):
    """Makes each training step last some seconds, so that a job can be met in the middle."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        time.sleep(self.seconds)


class Cluster:
    """SLURM's daemons, and a folder in which jobs are submitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
            "SLURM_CONF": str(folder / "slurm.conf"), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo",
            "WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1", "LIFTED_CACHE_DIR": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin"]),
        }  # fmt: skip
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Start the daemons, and wait until both machines are idle."""
        for name in ("state", *NODES, "work"):
            (self.folder / name).mkdir()
        (self.work / "experiments").symlink_to(ROOT / "experiments")
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(folder=self.folder, host=host, port=free_port(), user=os.getuid())
        for name in NODES:
            text += f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} CPUs=16\n"
        (self.folder / "slurm.conf").write_text(text)
        files = [f"--{kind}-file={self.folder}/munged.{kind}" for kind in ("pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket",
                     f"--key-file={key}", *files)  # fmt: skip
        wait_for((self.folder / "munge.socket").exists)
        self._daemon("slurmctld", "-D")
        for name in NODES:
            self._daemon("slurmd", "-D", "-N", name)
        wait_for(lambda: self.run("sinfo", "--noheader", "--Node", "--format=%T").split() == ["idle"] * len(NODES))

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        if len(self._daemons) > 1:
            self.run("scancel", "--user", str(os.getuid()))
            wait_for(lambda: not self.run("squeue", "--noheader"))
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def run(self, *command: str) -> str:
        """What one of SLURM's commands prints, whatever its exit code."""
        done = subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=60)
        return (done.stdout + done.stderr).strip()

    def submit(self, *arguments: str) -> str:
        """Hand in a script of `experiments/slurm/`, after options of sbatch; gives the job's number."""
        if not (number := self.run("sbatch", "--parsable", *arguments)).isdecimal():
            raise RuntimeError(number)
        return number

    def told(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        return dict(re.findall(r"(\w+)=(\S*)", self.run("scontrol", "show", "job", job)))

    def begin(self, job: str) -> dict[str, str]:
        """Have a job that was queued again begin at once, where SLURM lets it wait; gives what SLURM knows of it."""
        told = self.told(job)
        if told["JobState"] == "PENDING" and told["Reason"] == "BeginTime":
            time.sleep(3)  # until its script, which has queued it again, has ended too
            self.run("scontrol", "update", f"JobId={job}", "StartTime=now")
        return told

    def log(self, job: str) -> str:
        """What a job has printed."""
        return "".join(path.read_text() for path in sorted(self.work.glob(f"slurm-*-{job}*.log")))

    def end(self, job: str, state: str = "COMPLETED") -> dict[str, str]:
        """Wait until a job has ended, requeued jobs for the last time; gives what SLURM knows of it.

        Raises:
            RuntimeError: if it ends in another state.
        """
        deadline = time.monotonic() + PATIENCE
        while (told := self.begin(job))["JobState"] not in ENDED:
            if time.monotonic() > deadline:
                raise RuntimeError(f"job {job} is {told['JobState']} still: {self.log(job)[-400:]}")
            time.sleep(0.5)
        if told["JobState"] != state:
            raise RuntimeError(f"job {job} ended as {told['JobState']}: {self.log(job)[-400:]}")
        return told

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{command[0]}{len(self._daemons)}.out", "wb") as log:
            self._daemons.append(
                subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A cluster as long as the block lasts."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        made = Cluster(folder)
        stack.callback(made.stop)
        made.start()
        yield made


def missing() -> list[str]:
    """The programs that are not here."""
    paths = os.pathsep.join([os.environ["PATH"], "/usr/sbin"])
    return [name for name in PROGRAMS if not shutil.which(name, path=paths)]


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError("waited in vain")
        time.sleep(0.2)


# Runs, and what they are compared with

LAST = f"{CHECKPOINTS}/last.ckpt"
FIT, SWEEP = "experiments/slurm/fit.sbatch", "experiments/slurm/sweep.sbatch"
NOT_GIVEN = ("fit", "--experiment", "--name", "--trainer.accelerator")  # the scripts', or SLURM's to say


def options(seconds: float = 0.0, **more: Any) -> list[str]:
    """Of a run in miniature: 30 steps that last so many seconds each, a checkpoint every three, a row every two."""
    slow = ["--trainer.callbacks+=experiments.checks.slurm.Slow", f"--trainer.callbacks.seconds={seconds}"]
    kept = [word for word in BASE if not word.startswith(NOT_GIVEN)]
    return [*kept, *slow, *(f"--{key}={value}" for key, value in more.items())]


def unbroken(made: Cluster, ranks: int = 1, seed: int = 0) -> Path:
    """The run that nothing ends, of ranks that Lightning starts."""
    folder = made.work / "unbroken" / "e" / f"ranks{ranks}-seed{seed}"
    if not (folder / RESULT).exists():
        named = ["--runs_dir=unbroken", "--experiment=e", f"--name={folder.name}", "--trainer.accelerator=cpu"]
        out = made.run("lifted", "fit", *options(seed_everything=seed), *named, f"--trainer.devices={ranks}")
        if not (folder / RESULT).exists():
            raise RuntimeError(out)
    return folder


def check_same(folder: Path, other: Path) -> None:
    """Raise RuntimeError unless a run is another to the last bit, and its log has each step that is due, once."""
    steps = [int(row["step"]) for row in read_metrics(folder / METRICS) if row["train/loss"]]
    if steps != list(range(1, STEPS, 2)):
        raise RuntimeError(f"{folder.name}: training logged the steps {steps}")
    try:
        assert_same_run(folder, other)
    except AssertionError as error:
        raise RuntimeError(f"{folder.name}: {str(error).splitlines()[0]}") from error


def steps_made(folder: Path) -> int:
    """The last step that is in the log."""
    return max((int(row["step"]) for row in read_metrics(folder / METRICS)), default=0)


def requeue(made: Cluster, job: str, folder: Path, step: int) -> None:
    """Have SLURM queue a job again once its run has made a step, and wait until it has let it go."""
    wait_for(lambda: (folder / LAST).exists() and steps_made(folder) >= step, PATIENCE)
    made.run("scontrol", "requeue", job)
    wait_for(lambda: made.told(job)["JobState"] == "PENDING")


# The cases: each gives how often a run was ended and has gone on


def fit(made: Cluster, name: str, *given: str, ranks: int = 1, requeues: int = 0) -> int:
    """A run by fit.sbatch, queued again so many times in the middle."""
    folder = made.work / "runs" / "slurm" / name
    job = made.submit(*given, FIT, name, *options(0.5 if requeues else 0.0))
    for number in range(requeues):
        requeue(made, job, folder, 6 + 8 * number)
        made.begin(job)
    told = made.end(job)
    check_same(folder, unbroken(made, ranks))
    return int(told["Restarts"])


def out_of_time(made: Cluster, name: str, number: str) -> int:
    """A time limit of a minute for a run of one and a half, and the signal before it."""
    folder = made.work / "runs" / "slurm" / name
    told = made.end(made.submit("--time=1", f"--signal={number}@15", FIT, name, *options(3.0)))
    check_same(folder, unbroken(made))
    return int(told["Restarts"])


def before_a_checkpoint(made: Cluster) -> int:
    """Queued again when the run has a folder and no checkpoint: it starts anew, in that folder."""
    folder = made.work / "runs" / "slurm" / "early"
    job = made.submit(FIT, "early", *options(0.5))
    wait_for((folder / "config.yaml").exists, PATIENCE)
    if (folder / LAST).exists():
        raise RuntimeError("it has a checkpoint already")
    made.run("scontrol", "requeue", job)
    told = made.end(job)
    check_same(folder, unbroken(made))
    return int(told["Restarts"])


def one_name_twice(made: Cluster) -> int:
    """The second job, and one that goes on with a run that is being written, end; the first run is whole."""
    folder = made.work / "runs" / "slurm" / "same"
    first = made.submit(FIT, "same", *options(0.5))
    wait_for((folder / "slurm-job").exists, PATIENCE)
    second = made.submit(FIT, "same", *options())
    made.end(second, "FAILED")
    wait_for((folder / LAST).exists, PATIENCE)
    third = made.submit(FIT, "same")
    made.end(third, "FAILED")
    made.end(first)
    outside = made.submit(FIT, "../same", *options())
    made.end(outside, "FAILED")
    lines = {second: "not this job's", third: "another process is writing this run", outside: "without slashes"}
    for job, line in lines.items():
        if line not in made.log(job):
            raise RuntimeError(f"job {job} says: {made.log(job)[-400:]}")
    check_same(folder, unbroken(made))
    return 0


def write_sweep(made: Cluster, seconds: float, trials: int) -> str:
    content = {
        "method": "grid", "parameters": {"seed_everything": {"values": list(range(trials))}},
        "command": ["${env}", "lifted", "fit", *options(seconds), "${args}"],
    }  # fmt: skip
    (made.work / "array.yaml").write_text(yaml.safe_dump(content))
    return "array.yaml"


def array(made: Cluster, *given: str, ranks: int = 1, trials: int = 4) -> int:
    """Trials as the tasks of a job array, one of them queued again; then `lifted sweep` finds all done."""
    runs = f"--runs_dir=array{ranks}"
    file = write_sweep(made, 0.5, trials)
    job = made.submit(f"--array=0-{trials - 1}", *given, SWEEP, file, runs)
    wait_for(lambda: list((made.work / f"array{ranks}").glob("array/seed1-*/config.yaml")), PATIENCE)
    (folder,) = (made.work / f"array{ranks}").glob("array/seed1-*")
    requeue(made, f"{job}_1", folder, 6)
    restarts = sum(int(made.end(f"{job}_{number}")["Restarts"]) for number in range(trials))
    for seed in range(trials):
        (folder,) = (made.work / f"array{ranks}").glob(f"array/seed{seed}-*")
        check_same(folder, unbroken(made, ranks, seed))
    out = made.run("lifted", "sweep", file, runs)
    if f"{trials} trials, all done" not in out:
        raise RuntimeError(out)
    return restarts


CASES: dict[str, Callable[[Cluster], int]] = {
    "two tasks": lambda made: fit(made, "tasks", "--ntasks-per-node=2", ranks=2),
    "two machines": lambda made: fit(made, "machines", "--nodes=2", ranks=2),
    "scontrol requeue": lambda made: fit(made, "again", requeues=2),
    "scontrol requeue, two tasks": lambda made: fit(made, "both", "--ntasks-per-node=2", ranks=2, requeues=1),
    "scontrol requeue, two machines": lambda made: fit(made, "apart", "--nodes=2", ranks=2, requeues=1),
    "scontrol requeue before the first checkpoint": before_a_checkpoint,
    "out of time, SIGTERM": lambda made: out_of_time(made, "term", "TERM"),
    "out of time, SIGUSR1": lambda made: out_of_time(made, "usr1", "USR1"),
    "one NAME twice, a NAME with a slash": one_name_twice,
    "an array of four, one queued again": array,
    "an array of two, of two tasks each, one queued again": lambda made: array(
        made, "--ntasks-per-node=2", ranks=2, trials=2
    ),
}


def main() -> int:
    """Print a row of the table for each case; the exit code says whether all were as they should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only cases whose name has this regular expression")
    parser.add_argument("--keep", action="store_true", help="start the cluster, say how to reach it, and wait")
    given = parser.parse_args()
    if programs := missing():
        print(f"not here: {', '.join(programs)}", file=sys.stderr)
        return 2
    failed = 0
    with cluster() as made:
        if given.keep:
            print(f"export SLURM_CONF={made.folder}/slurm.conf; cd {made.work}", flush=True)
            signal.sigwait({signal.SIGINT})
            return 0
        print("| case | ended and gone on | equal to the unbroken run |\n|:--|--:|:--|", flush=True)
        for name, case in CASES.items():
            if not re.search(given.only, name):
                continue
            try:
                cells = [str(case(made)), "yes"]
            except RuntimeError as error:
                cells = ["–", one_line(error)]
                failed += 1
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
