"""Whether a sweep of W&B's loses a trial, or does one twice without a word, when its processes are ended.

python -m experiments.checks.wandb_sweeps                 # the whole table
python -m experiments.checks.wandb_sweeps --only "rank 1"
python -m experiments.checks.wandb_sweeps --files         # each file of experiments/sweeps/, by W&B's own commands

`wandb agent` runs a trial of Glyphs in miniature against the tests' stand-in of W&B's server, and a process gets a
signal at a moment. Then the agent goes on, or another is started if it was the one. A trial must end with the result of
one that was left alone, to the last bit, and be finished with W&B; steps that are done again, but for those since the
last checkpoint, and a trial that is begun anew, must be told of.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning.runs.folder import RESULT
from tests.helpers.wandb_server import StandIn, WandbSweep

ROOT = Path(__file__).parents[2]
SMALL = ["--data.size=16", "--model.network.width=4", "--evaluation.clustering=none", "--gallery.every_n=0",
         "--tsne.every_n=0", "--trainer.log_every_n_steps=1"]  # fmt: skip
TRIAL = [
    "fit", "--config=experiments/quickstart.yaml", "--trainer.max_steps=12", "--data.batches_per_epoch=8",
    "--trainer.check_val_every_n_epoch=1", "--last_checkpoint.every_n_steps=4", "--experiment=e", *SMALL,
]  # fmt: skip
MOMENTS = ("before a checkpoint", "after a checkpoint", "validation", "test", "after the result")
PROGRAM = [sys.executable, "-m", "lifted_lightning.cli"]


class Signal(Callback):
    """Sends a signal, once in the life of a trial, and notes each step that is trained.

    Args:
        to: ``trial``, ``rank 1``, ``agent``, or ``machine``, which is the agent and the trial.
        number: the signal.
        moment: one of ``MOMENTS``.
        notes: a folder to write to.
    """

    def __init__(self, to: str, number: int, moment: str, notes: str) -> None:
        self.to = to
        self.number = number
        self.moment = moment
        self.notes = Path(notes)

    def _now(self, moment: str, trainer: Trainer) -> None:
        sent = self.notes / "sent"
        if moment != self.moment or trainer.global_rank != (self.to == "rank 1") or sent.exists():
            return
        sent.touch()
        for process in {"agent": [os.getppid()], "machine": [os.getppid(), os.getpid()]}.get(self.to, [os.getpid()]):
            os.kill(process, self.number)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.is_global_zero:
            with (self.notes / "steps").open("a") as file:
                file.write(f"{trainer.global_step}\n")
        moments = {2: MOMENTS[0], 6: MOMENTS[1]}
        if trainer.global_step in moments:
            self._now(moments[trainer.global_step], trainer)

    def on_validation_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._now("validation", trainer)

    def on_test_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._now("test", trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._now("after the result", trainer)


@dataclass
class Case:
    """What happens to a trial."""

    to: str
    number: signal.Signals
    moment: str
    ranks: int = 1
    forward: bool = False  # whether the agent forwards signals

    def __str__(self) -> str:
        kind = "two ranks" if self.ranks == 2 else "one process"
        return f"{kind}: {self.number.name} to {self.to}{', forwarded,' if self.forward else ''} {self.moment}"


def cases() -> list[Case]:
    """All of them."""
    both = (signal.SIGTERM, signal.SIGKILL)
    after, test = MOMENTS[1], MOMENTS[3]
    return [
        *(Case("trial", number, moment) for number in both for moment in MOMENTS),
        *(Case(to, number, after, ranks=2) for number in both for to in ("trial", "rank 1")),
        *(Case("rank 1", number, test, ranks=2) for number in both),
        *(Case("agent", number, after) for number in both),
        Case("agent", signal.SIGTERM, after, forward=True),
        Case("agent", signal.SIGTERM, after, ranks=2, forward=True),
        Case("machine", signal.SIGKILL, after),
        Case("machine", signal.SIGKILL, after, ranks=2),
    ]


@dataclass
class Swept:
    """A sweep that was run."""

    server: StandIn
    folders: list[Path]
    text: str
    notes: Path

    @property
    def results(self) -> list[dict[str, Any]]:
        paths = [folder / RESULT for folder in self.folders]
        return [json.loads(path.read_text()) for path in paths if path.exists()]

    @property
    def steps(self) -> list[int]:
        return [int(step) for step in (self.notes / "steps").read_text().split()]


def sweep(place: Path, case: Case | None, ranks: int = 1, more: tuple[str, ...] = ()) -> Swept:
    """Run a sweep of one trial below a folder, from agents that run one after the other until it is done."""
    notes = place / "notes"
    notes.mkdir(parents=True)
    own = "--trainer.callbacks"
    to, number, moment = (case.to, int(case.number), case.moment) if case else ("nobody", 0, "never")
    line = [*PROGRAM, *TRIAL, f"--runs_dir={place}", f"{own}=experiments.checks.wandb_sweeps.Signal", f"{own}.to={to}",
            f"{own}.number={number}", f"{own}.moment={moment}", f"{own}.notes={notes}", "--trainer.accelerator=cpu",
            f"--trainer.devices={ranks}", *more]  # fmt: skip
    config = {
        "method": "grid",
        "parameters": {"seed_everything": {"values": [0]}},
        "command": ["${env}", *line, "${args}"],
    }
    server = StandIn()
    server.sweeps["s"] = trials = WandbSweep("s", yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "wandb",
        "agent",
        *(["--forward-signals"] if case and case.forward else []),
        "team/p/s",
    ]
    environment = {"LIFTED_CACHE_DIR": str(place.parent / "cache")} | server.environment(place)
    environment["WANDB_DIR"] = str(place)
    with (place / "log.txt").open("w") as log:
        for _ in range(4):
            agent = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=240)
            log.write(f"the agent has ended: {agent.returncode}\n")
            log.flush()
            runs = [server.run(name) for name in trials.handed_out]
            if not trials.waiting and not trials.given:
                if len(runs) > 1 or [*place.glob(f"e/*/{RESULT}")]:
                    break
                log.write("W&B was told that it failed; it is handed out anew by hand\n")
                trials.add(f"{runs[-1].id}again", trials.values[runs[-1].id])
            if to == "machine" or (case and case.forward):  # its trial is no more either
                for run in list(trials.given):
                    trials.ended(server.run(run))
    folders = [path.parent for path in sorted(place.glob("e/*/config.yaml"))]
    return Swept(server, folders, (place / "log.txt").read_text(), notes)


def told(swept: Swept, unbroken: Swept) -> str:
    """What a row says: how the trial was gone on with, and all that is wrong."""
    wrong = []
    if not swept.results or any(result["test"] != unbroken.results[0]["test"] for result in swept.results):
        wrong.append("LOST: " + ("another result" if swept.results else "no result"))
    runs = [run for run in swept.server.runs.values() if run.begun]
    if not any(run.exit_code is not None and {"test/recall@1", "best/map@r"} <= run.summary.keys() for run in runs):
        wrong.append("not finished with W&B")
    again = len(swept.steps) - len(set(swept.steps))
    said = re.findall(r"is this trial(?::|, and) (.*)|(W&B was told.*)", swept.text)
    if again > 4 and not said:  # since the last checkpoint
        wrong.append(f"{again} steps again without a word")
    how = f"{again} steps again, {len(swept.results)} result, {len(runs)} run of W&B"
    return "; ".join([*wrong, how, *("".join(words) for words in said or ["nothing said"])])


def files() -> list[Path]:
    """The sweep files, from the project's folder on."""
    return [path.relative_to(ROOT) for path in sorted((ROOT / "experiments" / "sweeps").rglob("*.yaml"))]


def shipped(place: Path, file: Path) -> str:
    """Run two trials of a sweep file, with few steps of tiny data, through `wandb sweep` and `wandb agent`."""
    place.mkdir()
    content = yaml.safe_load((ROOT / file).read_text())
    tiny = ["--data.dataset=tests.helpers.tiny.Blobs", "--data.batch_size=16", "--data.batches_per_epoch=2",
            "--trainer.max_steps=2", "--tsne.every_n=0", "--gallery.every_n=0", "--evaluation.clustering=none",
            f"--runs_dir={place}"]  # fmt: skip
    content["command"] = [w.replace("lifted", sys.executable) if w == "lifted" else w for w in content["command"]]
    content["command"][2:2] = PROGRAM[1:]
    content["command"] += tiny
    (place / file.name).write_text(yaml.safe_dump(content, sort_keys=False))
    server = StandIn()
    environment = server.environment(place)
    environment |= {"LIFTED_CACHE_DIR": str(place.parent / "cache"), "WANDB_DIR": str(place)}
    with (place / "log.txt").open("w") as log:
        for command in (["sweep", "--project=p", str(place / file.name)], ["agent", "--count=2", "team/p/sweep0"]):
            subprocess.run([sys.executable, "-m", "wandb", *command], cwd=ROOT, env=environment, stdout=log, stderr=log,
                           timeout=300)  # fmt: skip
    wrong = []
    runs = [run for run in server.runs.values() if run.begun]
    if len(runs) != 2 or any(run.exit_code != 0 for run in runs):
        wrong.append(f"{len(runs)} runs, exit codes {[run.exit_code for run in runs]}")
    for run in runs:
        for name, value in server.sweeps["sweep0"].values[run.id].items():
            there = run.config.get(name, run.config.get(f"{name}.class_path"))
            if name != "config" and (
                type(there) is not type(value) or str(value).split(".")[-1] != str(there).split(".")[-1]
            ):
                wrong.append(f"{name}={value!r} came as {there!r}")
    return "; ".join(wrong) or "as it should be"


def main() -> int:
    """Print a row for each case; the exit code says whether all was as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name has this regular expression")
    parser.add_argument("--files", action="store_true", help="the sweep files, in place of the signals")
    parser.add_argument("--jobs", type=int, default=1, help="sweeps side by side")
    parser.add_argument("--show", action="store_true", help="what each sweep printed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wandb-sweeps-") as top:
        chosen = [c for c in (files() if options.files else cases()) if re.search(options.only, str(c))]
        of = sorted({case.ranks for case in chosen if isinstance(case, Case)})
        unbroken = {ranks: sweep(Path(top, f"unbroken{ranks}"), None, ranks) for ranks in of}

        def row(case: Case | Path) -> str:
            place = Path(top, re.sub(r"\W+", "-", str(case)))
            if isinstance(case, Path):
                cell = shipped(place, case)
            else:
                cell = told(sweep(place, case, case.ranks), unbroken[case.ranks])
            text = (place / "log.txt").read_text() if options.show else ""
            print(f"{case}: {cell}{text}", file=sys.stderr)
            return cell

        wrong = 0
        with ThreadPoolExecutor(options.jobs) as pool:
            for case, cell in zip(chosen, pool.map(row, chosen), strict=True):
                wrong += not re.match(r"\d|as it", cell)
                print(f"| {case} | {cell} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
