"""A trial's folder belongs to one process at a time."""

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.runs.folder import LOCK, lock
from lifted_lightning.sweep import process
from lifted_lightning.sweep.trials import Trial

CONTEXT = multiprocessing.get_context("spawn")


def hold(folder: str, name: str, held: Event, let_go: Event) -> None:
    lock(Path(folder), name)
    held.set()
    let_go.wait(60)


@pytest.fixture
def begun(tmp_path: Path) -> Trial:
    """A run without a checkpoint yet."""
    folder = tmp_path / "sweep" / "trial-0"
    (folder / "plots").mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv"):
        (folder / name).touch()
    return Trial({"a": 1}, ("--a=1",), {}, "0", folder)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the runs that were started, each with a code of 7."""
    started: list[list[str]] = []

    def fit(folder: Path, arguments: list[str], variables: Any) -> int:
        started.append(arguments)
        return 7

    monkeypatch.setattr(process, "_fit", fit)
    monkeypatch.chdir(Path.cwd())
    return started


@pytest.mark.parametrize("name", [process.HELD, LOCK], ids=["another sweep's", "of a killed sweep"])
def test_a_live_trial_is_left_alone(begun: Trial, name: str, fits: list[list[str]], monkeypatch: Any) -> None:
    monkeypatch.setattr(process, "PATIENCE", 0.5)
    held, let_go = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=hold, args=(str(begun.folder), name, held, let_go))
    other.start()
    try:
        assert held.wait(60)
        assert process.run_trial(begun, [], {}, os.getcwd()) == 2
        assert fits == []
        assert {"config.yaml", "metrics.csv", "plots"} <= {p.name for p in begun.folder.iterdir()}
        assert "another process is writing this run" in (begun.folder / "log.txt").read_text()
        monkeypatch.setattr(process, "PATIENCE", 60.0)
        let_go.set()
        assert process.run_trial(begun, [], {}, os.getcwd()) == 7, "once the other has ended, it is taken over"
    finally:
        let_go.set()
        other.join()
    assert len(fits) == 1
    assert "--ckpt_path=last" not in fits[0]
    left = {p.name for p in begun.folder.iterdir()}
    assert left == {"log.txt", "trial.json", process.HELD, LOCK}, "it starts anew"


def test_a_trial_goes_on_from_its_checkpoint(begun: Trial, fits: list[list[str]]) -> None:
    (begun.folder / "checkpoints").mkdir()
    (begun.folder / "checkpoints" / "last.ckpt").touch()
    assert process.run_trial(begun, ["--more"], {}, os.getcwd()) == 7
    assert fits[0][:2] == ["--a=1", "--more"]
    assert fits[0][-1] == "--ckpt_path=last"
    assert (begun.folder / "config.yaml").exists()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_trial_that_has_ended_is_not_run(begun: Trial, stopped: bool, fits: list[list[str]]) -> None:
    if stopped:
        begun.write(stopped=True)
    else:
        (begun.folder / "result.json").touch()
    assert process.run_trial(begun, [], {}, os.getcwd()) == 0
    assert fits == []
