"""A trial's folder belongs to one process at a time."""

import multiprocessing
import os
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.runs.folder import LOCK, lock
from lifted_lightning.sweep import pool

CONTEXT = multiprocessing.get_context("spawn")


def hold(folder: str, name: str, held: Event, let_go: Event) -> None:
    lock(Path(folder), name)
    held.set()
    let_go.wait(60)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run without a checkpoint yet."""
    folder = tmp_path / "sweep" / "trial-0"
    (folder / "plots").mkdir(parents=True)
    for name in ("config.yaml", "metrics.csv", pool.STOP):
        (folder / name).touch()
    return folder


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the runs that were started, each with a code of 7."""
    started: list[list[str]] = []

    def fit(folder: Path, arguments: list[str], variables: Any) -> int:
        started.append(arguments)
        return 7

    monkeypatch.setattr(pool, "_fit", fit)
    monkeypatch.chdir(Path.cwd())
    return started


@pytest.mark.parametrize("name", [pool.HELD, LOCK], ids=["another sweep's", "of a killed sweep"])
def test_a_live_trial_is_left_alone(
    begun: Path, name: str, fits: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "LOCK_PATIENCE", 0.5)
    held, let_go = CONTEXT.Event(), CONTEXT.Event()
    other = CONTEXT.Process(target=hold, args=(str(begun), name, held, let_go))
    other.start()
    try:
        assert held.wait(60)
        assert pool.run_trial(str(begun), [], {}, os.getcwd()) == 2
        assert fits == []
        assert {"config.yaml", "metrics.csv", "plots", pool.STOP} <= {p.name for p in begun.iterdir()}
        assert "another process is writing this run" in (begun / "log.txt").read_text()
        monkeypatch.setattr(pool, "LOCK_PATIENCE", 60.0)
        let_go.set()
        assert pool.run_trial(str(begun), [], {}, os.getcwd()) == 7, "once the other has ended, it is taken over"
    finally:
        let_go.set()
        other.join()
    assert len(fits) == 1
    assert "--ckpt_path=last" not in fits[0]
    assert {p.name for p in begun.iterdir()} == {"log.txt", pool.HELD, LOCK}, "it starts anew"


def test_a_trial_goes_on_from_its_checkpoint(begun: Path, fits: list[list[str]]) -> None:
    (begun / "checkpoints").mkdir()
    (begun / "checkpoints" / "last.ckpt").touch()
    assert pool.run_trial(str(begun), ["--a"], {}, os.getcwd()) == 7
    assert fits[0][0] == "--a"
    assert fits[0][-1] == "--ckpt_path=last"
    assert (begun / "config.yaml").exists()
    assert not (begun / pool.STOP).exists()


def test_a_trial_that_has_ended_is_not_run(begun: Path, fits: list[list[str]]) -> None:
    (begun / "result.json").touch()
    assert pool.run_trial(str(begun), [], {}, os.getcwd()) == 0
    assert fits == []
