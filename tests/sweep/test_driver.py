"""The driver, with a pool that runs nothing: it makes the folders that trials would leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from lifted_lightning.sweep.driver import Driver
from lifted_lightning.sweep.plan import Halving, Parameter, Sweep
from lifted_lightning.sweep.pool import Pool
from lifted_lightning.sweep.search import Search
from lifted_lightning.sweep.trials import Trial

Outcome = Callable[[Trial, int], int | None]


class MadeUpPool:
    """Two slots; a trial ends at the next look, as ``outcome`` (of the trial and its attempt) says."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.started: list[str] = []
        self.live: list[Trial] = []
        self.most = 0

    def slots(self) -> int:
        return 2

    def start(self, trial: Trial) -> None:
        assert json.loads((trial.folder / "trial.json").read_text())["values"] == trial.values
        (trial.folder / "config.yaml").touch()
        self.started.append(trial.folder.name)
        self.live.append(trial)
        self.most = max(self.most, len(self.live))

    def running(self) -> list[Trial]:
        return list(self.live)

    def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
        trial = self.live.pop(0)
        return [(trial, self.outcome(trial, self.started.count(trial.folder.name)))]


def succeed(trial: Trial, attempt: int) -> int:
    score = trial.values["x"] / 10
    (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
    return 0


def drive(folder: Path, outcome: Outcome, retries: int = 1, **changes: Any) -> tuple[MadeUpPool, list[Trial], Driver]:
    settings: dict[str, Any] = {"method": "grid", "run_cap": None, "halving": None} | changes
    sweep = Sweep(
        path=folder / "s.yaml",
        name="s",
        metric="validation/map@r",
        maximize=True,
        parameters={"x": Parameter("values", (1, 2, 3))},
        fixed=(),
        **settings,
    )
    pool = MadeUpPool(outcome)
    driver = Driver(sweep, Search(sweep, []), cast(Pool, pool), folder, retries, total=3)
    return pool, driver.run(), driver


def test_every_trial_once_two_at_a_time_and_the_best_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool, failed, _ = drive(tmp_path, succeed)
    assert failed == []
    assert [name.split("-")[0] for name in pool.started] == ["x1", "x2", "x3"]
    assert pool.most == 2
    assert "3 of 3 done, best validation/map@r 0.3000 (x3-" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    drive(tmp_path, succeed)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    pool, _, _ = drive(tmp_path, succeed)
    assert pool.started == []
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_failed_trial_is_retried_then_told_with_its_last_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def outcome(trial: Trial, attempt: int) -> int | None:
        if trial.values["x"] == 1 or (trial.values["x"] == 2 and attempt < 3):
            (trial.folder / "log.txt").write_text("first\nRuntimeError: my own error\n")
            return 1 if trial.values["x"] == 1 else None
        return succeed(trial, attempt)

    pool, failed, _ = drive(tmp_path, outcome, retries=2)
    assert [trial.values["x"] for trial in failed] == [1]
    assert [sum(name.startswith(f"x{x}-") for name in pool.started) for x in (1, 2, 3)] == [3, 3, 1]
    out = capsys.readouterr().out
    assert "its machine was lost; it goes on from its last checkpoint" in out
    assert "ended with code 1 and without a result" in out
    assert "RuntimeError: my own error" in out
    assert "2 of 3 done, 1 failed" in out


def test_a_trial_that_falls_behind_is_stopped_and_stays_so(tmp_path: Path) -> None:
    def outcome(trial: Trial, attempt: int) -> int:
        score = 1 - trial.values["x"] / 10  # each worse than the one before
        (trial.folder / "metrics.csv").write_text(f"step,validation/map@r\n1,{score}\n")
        if trial.values["x"] == 1:
            (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
        return 0

    class Slow(MadeUpPool):
        """Ends a trial that has no result only once it was stopped."""

        def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
            for trial in self.live:
                outcome(trial, 1)
            ended = [trial for trial in self.live if trial.state != "begun"]
            self.live = [trial for trial in self.live if trial.state == "begun"]
            return [(trial, 143) for trial in ended]

    sweep = Sweep(
        tmp_path / "s.yaml", "s", "grid", "validation/map@r", True,
        {"x": Parameter("values", (1, 2, 3))}, (), None, Halving(1, 2),
    )  # fmt: skip
    for _ in range(2):
        pool = Slow(outcome)
        failed = Driver(sweep, Search(sweep, []), cast(Pool, pool), tmp_path, 0, total=3).run()
        assert failed == []
        states = {path.parent.name[:2]: path.name for path in tmp_path.glob("*/stopped.json")}
        assert states == {"x2": "stopped.json", "x3": "stopped.json"}
    assert pool.started == []
