"""The protocol in one command: its points, its choice, and that it goes on wherever it was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import qmc

from experiments.sweeps.reality_check import __main__ as reality_check
from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import Parameter
from lifted_lightning.sweep.trials import Trial, Trials
from tests.sweep.test_sweep import TINY

ROOT = Path(__file__).parents[2]
MARGIN = {"min": 0.1, "max": 1.0, "distribution": "log_uniform_values"}


def write_losses(folder: Path) -> list[Path]:
    """Two sweep files, each of a loss and the range of its margin."""
    (folder / "tiny.yaml").write_text(TINY)
    paths = []
    for loss in ("ContrastiveLoss", "TripletLoss"):
        content = {
            "name": loss,
            "method": "bayes",
            "run_cap": 9,
            "metric": {"name": "validation/map@r", "goal": "maximize"},
            "parameters": {"model.loss.init_args.margin": MARGIN},
            "command": ["lifted", "fit", "--config", "tiny.yaml", f"--model.loss={loss}", "${args}"],
        }
        paths.append(folder / f"{loss}.yaml")
        paths[-1].write_text(yaml.safe_dump(content))
    return paths


def test_points_are_a_halton_sequence_over_the_ranges() -> None:
    parameters = {
        "a": Parameter("float", low=2.0, high=3.0),
        "b": Parameter("float", low=0.01, high=1.0, log=True),
        "c": Parameter("int", low=0, high=2),
        "d": Parameter("values", ("x", "y")),
        "data.fold": Parameter("values", (0, 1)),
    }
    found = reality_check.search_points(parameters, 20)
    shares = qmc.Halton(4, scramble=False).random(21)[1:]
    for point, share in zip(found, shares, strict=True):
        assert point["a"] == pytest.approx(2 + share[0], rel=1e-3)
        assert np.log10(point["b"]) == pytest.approx(2 * share[1] - 2, abs=1e-3)
        assert point["c"] == int(3 * share[2])
        assert point["d"] == "xy"[int(2 * share[3])]
        assert point["seed_everything"] == 0
    assert reality_check.search_points(parameters, 4) == found[:4]
    few = {"c": parameters["c"], "d": parameters["d"], "e": Parameter("float", low=0.0, high=1.0, step=0.4)}
    found = reality_check.search_points(few, 99)
    assert sorted((p["c"], p["d"], p["e"]) for p in found) == list(product((0, 1, 2), "xy", (0.0, 0.4, 0.8)))
    assert reality_check.search_points(few, 5) == found[:5]


def test_the_best_is_that_of_the_mean_over_folds_and_one_that_failed_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweep = reality_check.with_folds(write_losses(tmp_path)[0], 2, [])
    sweep = reality_check.replace(sweep, fixed=())
    trials = Trials(sweep, tmp_path)
    margins = {0.1: (0.9, 0.1), 0.2: (0.6, 0.6), 0.4: (0.5, 0.5), 0.8: (1.0, None)}
    runs = []
    for margin, scores in margins.items():
        runs.append([trials.of({"model.loss.init_args.margin": margin, "data.fold": fold}) for fold in (0, 1)])
        for run, score in zip(runs[-1], scores, strict=True):
            run.folder.mkdir()
            if score:
                (run.folder / "result.json").write_text(json.dumps({"validation": {"map@r": score}}))
    assert reality_check.best(sweep, runs) == {"model.loss.init_args.margin": 0.2}
    out = capsys.readouterr().out
    assert "margin0.8-fold0" in out
    assert "failed in 1 folds, and is not chosen" in out
    assert "margin 0.2: validation/map@r 0.6000 in the mean over folds, the best of 0.5000, 0.6000, 0.5000" in out
    with pytest.raises(UserError, match="every trial failed in some fold"):
        reality_check.best(sweep, runs[-1:])


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("--model.loss.margin=1", r"ContrastiveLoss\.yaml: model\.loss\.margin: is decided"),
        ("--data.fold=1", r"data\.fold: is decided"),
        ("--test=true", "test: is decided"),
        ("--config", "in one word"),
        ("--trials=0", "at least 1"),
        ("--folds=1", "at least 2"),
        ("--cpus-per-trial=0", "--cpus-per-trial above 0"),
        ("--trainer.max_stesp=3", "did you mean --trainer.max_steps"),
    ],
)
def test_what_the_protocol_decides_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = map(str, write_losses(tmp_path))
    with pytest.raises(UserError, match=named):
        reality_check.main(["--folder=runs", "--losses", *losses, given])
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    losses = map(str, write_losses(tmp_path))
    with pytest.raises(UserError, match=r"--folder tiny\.yaml: .*tiny\.yaml is no folder"):
        reality_check.main(["--folder=tiny.yaml", "--losses", *losses])


def test_as_many_trials_stand_behind_a_loss_as_it_has_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths, ran = write_losses(tmp_path), list[list[Trial]]()
    content = yaml.safe_load(paths[0].read_text())
    content["parameters"] = {"model.loss.init_args.margin": {"values": [0.2, 0.4]}}
    paths[0].write_text(yaml.safe_dump(content))
    monkeypatch.setattr(reality_check, "run_all", lambda runs, *_: ran.append(runs))
    monkeypatch.setattr(reality_check, "best", lambda sweep, trials: {"model.loss.init_args.margin": 0.2})
    monkeypatch.setattr(reality_check, "lifted", lambda arguments: 0)
    assert reality_check.main(["--folder=runs", "--trials=3", "--folds=2", "--losses", *map(str, paths)]) == 0
    assert [len(runs) for runs in ran] == [2 * 2 + 3 * 2, 2 * 2 * 2]
    behind = [next(word for word in run.arguments if word.startswith("--tuning_trials=")) for run in ran[1]]
    assert behind == ["--tuning_trials=2"] * 4 + ["--tuning_trials=3"] * 4


@pytest.mark.slow
def test_killed_twice_it_goes_on_and_no_run_is_lost_or_made_twice(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.sweeps.reality_check", "--folder=runs", "--trials=1", "--repeats=1"]
    command += ["--folds=2", "--losses", *map(str, write_losses(tmp_path))]
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def results(part: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob(f"runs/{part}-*/*/result.json")}

    def wait_for(condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 200
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    before: dict[Path, int] = {}
    for part in ("tune", "final"):
        process = start()
        wait_for(lambda part=part: results(part))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert before.items() <= results("*").items()
        before = results("*")
    process = start()
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0, out
    assert before.items() <= results("*").items(), "what was there is left as it was"
    assert (len(results("tune")), len(results("final"))) == (4, 4)
    for path in results("*"):
        result = json.loads(path.read_text())
        assert result["config"]["data"]["folds"] == 2
        assert result["tuning_trials"] == (1 if path.parts[-3].startswith("final") else None)
        assert result["validation"]["map@r"] > 0
        assert result["test"] == {}, "the test classes choose nothing"
    assert (tmp_path / "runs" / "report" / "index.html").exists()
    looks = [json.loads(path.read_text()) for path in tmp_path.glob("runs/report/ensembles/*/result.json")]
    assert sorted(look["embedding_size"] for look in looks) == [8] * 4 + [16] * 2, "each model, and each loss's folds"
    assert all(look["test"]["map@r"] > 0 for look in looks)
    out = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "tuning: 4 runs, of which 4 are there" in out
    assert "started" not in out
