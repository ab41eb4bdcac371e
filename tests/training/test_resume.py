"""A run that is killed or stopped at any moment, and resumed, ends bit for bit where an unbroken one does."""

import json
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lifted_lightning.runs.folder import METRICS, read_metrics
from tests.helpers import faults as kills
from tests.helpers.lifted import DEADLINE, Run, lifted
from tests.helpers.tiny import FIT

# Three epochs of eight steps with a validation after each, and six steps of a fourth.
STEPS = 30
BASE = [
    *FIT, "--model.network.dropout=0.1", "--model.scheduler=torch.optim.lr_scheduler.StepLR",
    "--model.scheduler.step_size=7", "--data.sampler.samples_per_class=4", "--data.batches_per_epoch=8",
    "--data.sampler.refresh_interval=6", f"--trainer.max_steps={STEPS}", "--trainer.log_every_n_steps=2",
    "--last_checkpoint.every_n_steps=3", "--name=run",
]  # fmt: skip


COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "RetrievalDataModule", "global_step", "epoch")


@dataclass(frozen=True)
class Setting:
    """What a run is made with besides ``BASE``."""

    workers: int = 0
    neighbours: float = 0.0
    world_size: int = 1

    @property
    def arguments(self) -> list[str]:
        data = [f"--data.workers={self.workers}", f"--data.sampler.neighbours={self.neighbours}"]
        return [*data, f"--trainer.devices={self.world_size}"]


PLAIN, HARD, RANKS = Setting(), Setting(workers=1, neighbours=0.5), Setting(neighbours=0.5, world_size=2)


class Runs:
    """Starts and resumes runs below one folder, and keeps the unbroken run of each setting."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unbroken: dict[Setting, Path] = {}
        self._number = 0

    def start(
        self,
        setting: Setting,
        prepare: Sequence[Callable[[], None] | None] = (),
        more: Sequence[str] = (),
        environment: dict[str, str] | None = None,
    ) -> tuple[Run, Path]:
        """Start a run, with more arguments; returns it and the folder it is to write."""
        self._number += 1
        place = self.folder / str(self._number)
        place.mkdir()
        places = [f"--runs_dir={place}", f"--data.cache_dir={self.folder / 'cache'}"]
        run = lifted([*BASE, *setting.arguments, *places, *more], place, setting.world_size, prepare, environment)
        return run, place / "e" / "run"

    def resume(self, folder: Path, setting: Setting) -> Run:
        arguments = ["fit", f"--config={folder / 'config.yaml'}", "--ckpt_path=last"]
        return lifted(arguments, folder.parent, setting.world_size)

    def unbroken(self, setting: Setting) -> Path:
        if setting not in self._unbroken:
            run, folder = self.start(setting)
            assert run.wait() == [0] * setting.world_size, run.output
            self._unbroken[setting] = folder
        return self._unbroken[setting]

    def assert_goes_on(self, folder: Path, setting: Setting) -> None:
        """Resume, or start anew where nothing was saved, and compare with the unbroken run."""
        if (folder / "checkpoints" / "last.ckpt").exists():
            run = self.resume(folder, setting)
        else:
            run, folder = self.start(setting)
        assert run.wait() == [0] * setting.world_size, run.output
        assert_same_run(folder, self.unbroken(setting))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("resume"))


def load(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equal to the last bit, in all that a checkpoint holds."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a.nan_to_num(nan=7e4), b.nan_to_num(nan=7e4)), where
    else:
        assert a == b, where


def assert_same_run(folder: Path, unbroken: Path) -> None:
    for name in ("last", "best"):
        ours, theirs = load(folder, name), load(unbroken, name)
        for key in COMPARED:
            assert_same(ours.get(key), theirs.get(key), f"{name}: {key}")
    assert load(folder, "last")["global_step"] == STEPS
    assert rows(folder) == rows(unbroken)
    ours, theirs = (json.loads((f / "result.json").read_text()) for f in (folder, unbroken))
    for key in ("test", "validation", "steps", "selected_step", "selection"):
        assert ours[key] == theirs[key], key
    for key in ("images", "devices", "precision"):
        assert ours["cost"]["fit"][key] == theirs["cost"]["fit"][key], key


def rows(folder: Path) -> list[dict[str, str]]:
    """What training, validation and test logged; of the test not the epoch, which counts what this process began."""
    return [row | ({"epoch": ""} if row["test/map@r"] else {}) for row in read_metrics(folder / METRICS)]


def steps_logged(folder: Path) -> list[int]:
    return [int(row["step"]) for row in rows(folder) if row["train/loss"]]


@pytest.mark.parametrize(
    ("event", "count", "setting"),
    [("validation", 2, PLAIN), ("writing", 4, HARD), ("step", 20, RANKS)],
    ids=["in validation", "writing a checkpoint, with a worker and neighbours", "in a step of rank 1 of 2"],
)
def test_killed_at_a_moment(runs: Runs, event: str, count: int, setting: Setting) -> None:
    prepare = [None] * (setting.world_size - 1) + [kills.at(event, count)]
    run, folder = runs.start(setting, prepare)
    run.processes[-1].join(DEADLINE)
    codes = run.wait(1)  # what becomes of the other ranks is a test of its own
    assert codes[-1] == -signal.SIGKILL, run.output
    assert 0 not in codes
    assert not (folder / "result.json").exists()
    if event == "writing":
        assert list((folder / "checkpoints").glob(".*.tmp")), "the half-written file should lie there"
    config = (folder / "config.yaml").read_text()
    runs.assert_goes_on(folder, setting)
    assert (folder / "config.yaml").read_text() == config, "it is written anew, and nothing has changed"
    assert not list((folder / "checkpoints").glob(".*.tmp"))
    assert steps_logged(folder) == list(range(1, STEPS, 2))


def test_killed_between_the_last_checkpoint_and_the_last_row(runs: Runs) -> None:
    """Nothing is left to train then, so the row must be there already: Lightning logs it after the checkpoint."""
    run, folder = runs.start(PLAIN, [kills.at("renamed", STEPS // 3 + 2)])  # validations at 8 and 16 save too
    assert run.wait() == [-signal.SIGKILL], run.output
    assert load(folder, "last")["global_step"] == STEPS
    runs.assert_goes_on(folder, PLAIN)


@pytest.mark.parametrize("limit", [[], ["--trainer.max_steps=-1", "--trainer.max_epochs=2"]], ids=str)
def test_nothing_is_left_to_train(runs: Runs, limit: list[str]) -> None:
    finished = runs.unbroken(PLAIN)
    arguments = ["fit", f"--config={finished / 'config.yaml'}", "--ckpt_path=last", "--name=none"]
    run = lifted([*arguments, *limit], finished.parent)
    assert run.wait() == [2], run.output
    assert "nothing is left to train; raise trainer.max_" in run.output
    assert not (finished.parent / "none").exists()


@pytest.mark.parametrize(
    ("limit", "less", "more", "arguments"),
    [
        ("max_steps", 20, 26, ["--data.sampler.neighbours=0.5", "--data.workers=1"]),
        ("max_steps", 16, 24, ["--data.sampler.neighbours=0.5"]),
        ("max_steps", 20, 26, ["--data.validation_share=0"]),
        ("max_steps", 16, 24, ["--data.validation_share=0", "--data.sampler.neighbours=0.5"]),
        ("max_steps", 15, 26, ["--trainer.accumulate_grad_batches=2"]),
        (
            "max_steps",
            13,
            19,
            [
                *("--model.loss=CrossBatchMemory", "--model.loss.loss=TripletLoss", "--model.loss.size=50"),
                "--trainer.precision=64-true",
            ],
        ),
        ("max_epochs", 2, 3, ["--trainer.max_steps=-1", "--data.sampler.neighbours=0.5"]),
        ("max_epochs", 2, 3, ["--trainer.max_steps=-1", "--data.sampler.neighbours=0.5", "--data.validation_share=0"]),
    ],
    ids=str,
)
def test_a_finished_run_goes_on_in_a_new_folder(
    runs: Runs, limit: str, less: int, more: int, arguments: list[str]
) -> None:
    """With more to train, and to the very state of a run that had that from the start."""
    run, finished = runs.start(PLAIN, more=[*arguments, f"--trainer.{limit}={less}"])
    assert run.wait() == [0], run.output
    result = (finished / "result.json").read_bytes()
    going_on = ["fit", f"--config={finished / 'config.yaml'}", "--ckpt_path=last", "--name=more"]
    run = lifted([*going_on, f"--trainer.{limit}={more}"], finished.parent)
    assert run.wait() == [0], run.output
    assert (finished / "result.json").read_bytes() == result
    run, unbroken = runs.start(PLAIN, more=[*arguments, f"--trainer.{limit}={more}"])
    assert run.wait() == [0], run.output
    ours, theirs = load(finished.parent / "more", "last"), load(unbroken, "last")
    assert ours["global_step"] == (more if limit == "max_steps" else 8 * more)
    for key in COMPARED:
        assert_same(ours.get(key), theirs.get(key), key)


@pytest.mark.parametrize(
    ("number", "setting", "rank"),
    [
        (signal.SIGINT, HARD, 0),
        (signal.SIGTERM, RANKS, 1),
        (signal.SIGUSR1, PLAIN, 0),
        pytest.param(signal.SIGINT, Setting(1, 0.5, 2), 1, marks=pytest.mark.slow),
    ],
    ids=["Ctrl-C", "SIGTERM to rank 1 alone", "SIGUSR1", "Ctrl-C to rank 1 and its worker, before the ranks agree"],
)
def test_stopped_by_a_signal(runs: Runs, number: int, setting: Setting, rank: int) -> None:
    group = number == signal.SIGINT  # as a terminal does, to loader workers too
    prepare = [kills.at("step", 10, number, group) if r == rank else None for r in range(setting.world_size)]
    run, folder = runs.start(setting, prepare)
    told = [number if r == rank else signal.SIGTERM for r in range(setting.world_size)]
    assert run.wait() == [128 + n for n in told], run.output
    assert not (folder / "result.json").exists()
    lines = [line for line in run.output.splitlines() if "--ckpt_path last" in line]
    assert len(lines) == 1
    assert str(folder / "config.yaml") in lines[0]
    assert "Traceback" not in run.output
    stopped_at = load(folder, "last")["global_step"]
    assert 10 <= stopped_at <= 20, "it waits for the step, and with ranks for the next time they agree"
    runs.assert_goes_on(folder, setting)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_stopped_before_the_first_step(runs: Runs, number: int) -> None:
    """Lightning would pass the signal over, end the run after a step with code 0, or queue a job of SLURM again."""
    slurm = {"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_ID": "1"}
    run, folder = runs.start(PLAIN, [kills.at("loading", 1, number)], environment=slurm)
    assert run.wait() == [-number], run.output
    assert not list(folder.glob("**/*.ckpt"))


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_ended_in_the_test_at_the_end(runs: Runs, number: int) -> None:
    """It ends at once; what is trained is there, and the test is done when the run goes on."""
    run, folder = runs.start(PLAIN, [kills.at("test", 1, number)])
    (code,) = run.wait()
    assert not (folder / "result.json").exists()
    assert load(folder, "last")["global_step"] == STEPS
    assert "Traceback" not in run.output
    if number == signal.SIGKILL:
        assert code == -number
    else:
        assert code == 128 + number
        assert sum(f"--config {folder / 'config.yaml'} --ckpt_path last" in s for s in run.output.splitlines()) == 1
    runs.assert_goes_on(folder, PLAIN)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "event"), [("validate", "validation"), ("test", "test"), ("predict", "predict")])
def test_sigterm_ends_a_command_that_does_not_train(runs: Runs, command: str, event: str) -> None:
    unbroken = runs.unbroken(PLAIN)
    arguments = [command, f"--config={unbroken / 'config.yaml'}", "--ckpt_path=last"]
    run = lifted(arguments, runs.folder, 1, [kills.at(event, 1, signal.SIGTERM)])
    assert run.wait() == [128 + signal.SIGTERM], run.output
    assert "Traceback" not in run.output
    assert "--ckpt_path" not in run.output, "there is nothing to go on with"


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_random_moments(runs: Runs) -> None:
    """Twenty moments, with and without workers and neighbours, on one rank and two."""
    draw = random.Random(0)
    settings = [Setting(w, n, 1) for w in (0, 2) for n in (0.0, 0.5)] + [Setting(w, 0.5, 2) for w in (0, 2)]
    most = {"step": STEPS, "validation": 3, "writing": 10, "renaming": 10, "renamed": 10}
    moments = [(event, settings[(i + j) % 6]) for i, event in enumerate(kills.EVENTS) for j in range(4)]
    assert len(moments) == 20
    for event, setting in moments:
        victim, count = draw.randrange(setting.world_size), draw.randint(1, most[event])
        if event in ("writing", "renaming", "renamed"):
            victim = 0  # who writes
        prepare = [kills.at(event, count) if r == victim else None for r in range(setting.world_size)]
        run, folder = runs.start(setting, prepare)
        run.processes[victim].join(DEADLINE)
        codes = run.wait(1)
        assert codes[victim] == -signal.SIGKILL, (event, count, setting, codes, run.output)
        runs.assert_goes_on(folder, setting)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("setting", [Setting(2, 0.5, 1), RANKS], ids=str)
def test_killed_by_the_clock_again_and_again(runs: Runs, setting: Setting) -> None:
    """SIGKILL from outside, at whatever moment that is, until a run comes through."""
    draw = random.Random(1)
    unbroken = runs.unbroken(setting)
    began = time.monotonic()
    run, folder = runs.start(setting)
    assert run.wait() == [0] * setting.world_size, run.output
    seconds = time.monotonic() - began
    run, folder = runs.start(setting)
    kills_made = 0
    for _ in range(6):
        deadline = time.monotonic() + draw.uniform(0.2, 0.8) * seconds
        while time.monotonic() < deadline and any(p.is_alive() for p in run.processes):
            time.sleep(0.01)
        run.processes[draw.randrange(setting.world_size)].kill()
        kills_made += -signal.SIGKILL in run.wait(15)  # the other rank may wait for a peer that will not come
        if (folder / "result.json").exists():
            break
        if (folder / "checkpoints" / "last.ckpt").exists():
            run = runs.resume(folder, setting)
        else:
            run, folder = runs.start(setting)
    assert kills_made
    run.wait()
    if not (folder / "result.json").exists():
        runs.assert_goes_on(folder, setting)
    assert_same_run(folder, unbroken)
