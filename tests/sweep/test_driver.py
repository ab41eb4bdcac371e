"""The driver, with a pool that runs nothing: it makes the folders that trials would leave."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from lifted_lightning.sweep.driver import Pool, Progress, run_trials
from lifted_lightning.sweep.plan import Halving, Parameter, Sweep
from lifted_lightning.sweep.search import Search
from lifted_lightning.sweep.trials import Trial, Trials

Outcome = Callable[[Trial, int], int | None]


class MadeUpPool:
    """Two slots; a trial ends at the next look, as ``outcome`` (of the trial and its attempt) says, or when stopped."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.started: list[str] = []
        self.live: list[Trial] = []
        self.most = 0

    def slots(self) -> int:
        return 2

    def start(self, trial: Trial) -> None:
        trial.folder.mkdir(parents=True, exist_ok=True)
        trial.write()
        (trial.folder / "config.yaml").touch()
        self.started.append(trial.folder.name)
        self.live.append(trial)
        self.most = max(self.most, len(self.live))

    def running(self) -> list[Trial]:
        return list(self.live)

    def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
        trial = self.live.pop(0)
        return [(trial, self.outcome(trial, self.started.count(trial.folder.name)))]

    def stop(self, trials: list[Trial]) -> None:
        assert not trials


def succeed(trial: Trial, attempt: int) -> int:
    score = trial.values["x"] / 10
    (trial.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
    return 0


def drive(folder: Path, pool: MadeUpPool, retries: int = 1, halving: Halving | None = None) -> list[Trial]:
    """The trials that failed, of a sweep of three."""
    parameters = {"x": Parameter("values", (1, 2, 3))}
    sweep = Sweep(folder / "s.yaml", "s", "grid", parameters, "validation/map@r", halving=halving)
    trials = Trials(sweep, folder)
    there = [trials.of(values) for values in sweep.grid()]
    progress = Progress(sweep, [trial for trial in there if trial.ended], total=3)
    run_trials(Search(sweep, trials, there), cast(Pool, pool), retries, progress)
    print(progress.summary())
    return progress.failed


def test_every_trial_once_two_at_a_time_and_the_best_named(tmp_path: Path, capsys: Any) -> None:
    pool = MadeUpPool(succeed)
    assert drive(tmp_path, pool) == []
    assert [name.split("-")[0] for name in pool.started] == ["x1", "x2", "x3"]
    assert pool.most == 2
    assert "3 of 3 done, best validation/map@r 0.3000 (x3-" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert drive(tmp_path, again := MadeUpPool(succeed)) == again.started == [], "what is done is not done again"
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_failed_trial_is_retried_then_told_with_its_last_lines(tmp_path: Path, capsys: Any) -> None:
    def outcome(trial: Trial, attempt: int) -> int | None:
        if trial.values["x"] == 1 or (trial.values["x"] == 2 and attempt < 3):
            (trial.folder / "log.txt").write_text("first\nRuntimeError: my own error\n")
            return 1 if trial.values["x"] == 1 else None
        return succeed(trial, attempt)

    pool = MadeUpPool(outcome)
    assert [trial.values["x"] for trial in drive(tmp_path, pool, retries=2)] == [1]
    assert [sum(name.startswith(f"x{x}-") for name in pool.started) for x in (1, 2, 3)] == [3, 3, 1]
    out = capsys.readouterr().out
    assert "its machine was lost; it goes on from its last checkpoint" in out
    assert "ended with code 1 and without a result" in out
    assert "RuntimeError: my own error" in out
    assert "2 of 3 done, 1 failed" in out


class Validating(MadeUpPool):
    """Each trial's one validation is worse than the one before it; what is not stopped ends when nothing else does."""

    def wait(self, seconds: float) -> list[tuple[Trial, int | None]]:
        for trial in self.live:
            (trial.folder / "metrics.csv").write_text(f"step,validation/map@r\n1,{1 - trial.values['x'] / 10}\n")
        ended = [trial for trial in self.live if trial.ended]
        if not ended and all((trial.folder / "metrics.csv").exists() for trial in self.live):
            ended = [trial for trial in self.live if trial.values["x"] == 1]
            for trial in ended:
                succeed(trial, 1)
        self.live = [trial for trial in self.live if trial not in ended]
        return [(trial, 143) for trial in ended]

    def stop(self, trials: list[Trial]) -> None:
        assert all(trial.state == "stopped" for trial in trials)


def test_a_trial_that_falls_behind_is_stopped_and_stays_so(tmp_path: Path, capsys: Any) -> None:
    assert drive(tmp_path, Validating(succeed), retries=0, halving=Halving(1, 2)) == []
    assert "1 of 3 done, 2 stopped early" in capsys.readouterr().out
    assert drive(tmp_path, again := Validating(succeed), halving=Halving(1, 2)) == again.started == []
    told = {p.parent.name[:2]: "stopped" in json.loads(p.read_text()) for p in tmp_path.glob("*/trial.json")}
    assert told == {"x1": False, "x2": True, "x3": True}
