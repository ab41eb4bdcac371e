"""The result that a run leaves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lifted_lightning.callbacks.outputs import with_training_means
from lifted_lightning.cli import main
from lifted_lightning.runs.folder import RESULT
from tests.helpers.tiny import FIT


def test_a_history_row_has_the_means_of_what_training_logged_since_the_row_before():
    logged = [
        {"step": "1", "train/loss": "4.0", "batch/classes": "2", "epoch": "0"},
        {"step": "3", "train/loss": "2.0", "batch/classes": "", "epoch": "0"},
        {"step": "4", "train/loss": "1.0", "batch/classes": "6", "epoch": "1"},
    ]
    history = [{"step": 4, "seconds": 1.5, "validation/map@r": 0.5}, {"step": 6, "seconds": 3.0}]
    assert with_training_means(history, logged) == [
        {"step": 4, "seconds": 1.5, "validation/map@r": 0.5, "train/loss": 3.0, "batch/classes": 2.0},
        {"step": 6, "seconds": 3.0, "train/loss": 1.0, "batch/classes": 6.0},
    ]
    assert with_training_means([{"step": 4, "seconds": 1.0}], []) == [{"step": 4, "seconds": 1.0}]


def test_result_json_tells_how_the_run_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    arguments = "--trainer.max_steps=6 --trainer.log_every_n_steps=1 --data.batches_per_epoch=3 --test=false"
    arguments += f" --tsne.every_n=0 --gallery.every_n=0 --confusions.every_n=0 --name=run --runs_dir={tmp_path}"
    assert main([*FIT, *arguments.split()]) == 0
    result = json.loads((tmp_path / "e" / "run" / "result.json").read_text())
    assert not list(tmp_path.glob("*/run/plots/*"))
    assert result["stage"] == "validation"
    assert not result["test"]
    assert [row["step"] for row in result["history"]] == [3, 6]
    assert result["history"][0]["seconds"] < result["history"][1]["seconds"] <= result["seconds"]["fit"]
    assert result["history"][-1]["validation/map@r"] == result["validation"]["map@r"] or result["selected_step"] == 3
    assert all(row["train/loss"] > 0 and row["batch/positive_distance"] > 0 for row in result["history"])


BEGUN = {"commit": "b" * 40, "changed": True}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps with three looks at the validation classes."""
    runs = tmp_path_factory.mktemp("ledger")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setattr("lifted_lightning.callbacks.outputs.git_state", lambda: BEGUN)
        more = "--trainer.max_steps=6 --data.batches_per_epoch=2 --tsne.every_n=0 --gallery.every_n=0 --name=run"
        assert main([*FIT, *more.split(), f"--runs_dir={runs}"]) == 0
    return runs / "e" / "run"


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULT).read_text())


def again(command: str, fitted: Path, checkpoint: Path, name: str, *more: str) -> dict[str, Any]:
    """The result of a command on a checkpoint of that run, in a folder of its own."""
    given = [f"--config={fitted / 'config.yaml'}", f"--ckpt_path={checkpoint}", f"--name={name}", *more]
    assert main([command, *given]) == 0
    return result_of(fitted.parent / name)


def test_costs_of_a_run(fitted: Path) -> None:
    cost, trained = result_of(fitted)["cost"], 12 * 12 * 16 + 16 + 16 * 8 + 8
    assert cost["parameters"] == {"all": trained, "trained": trained, "loss": 0}
    assert cost["multiply_adds"] == 12 * 12 * 16 + 16 * 8
    assert (cost["fit"]["images"], cost["fit"]["steps"]) == (6 * 16, 6)
    for part in (cost["fit"], cost["evaluation"]):
        ((device,), precision) = part["devices"], part["precision"]
        assert (device["count"], precision) == (1, "32-true")
        assert device["name"].endswith(" thread")
        assert part["core_seconds"] > 0 == part["gpu_seconds"] == part["peak_gpu_bytes"]
        assert 1e8 < part["peak_resident_bytes"] < 1e10


def test_which_classes_selected_and_how_often_they_and_the_test_classes_were_looked_at(
    fitted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    first = result_of(fitted)
    looks = {"split": "validation", "metric": "validation/map@r", "step": first["selected_step"], "looks": 3}
    assert (first["selection"], first["test_looks"], first["tuning_trials"]) == (looks, 1, None)

    best, last = (fitted / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    second = again("test", fitted, best, "second")
    assert (second["selection"], second["test_looks"]) == (looks, 2)
    assert second["cost"]["fit"] == first["cost"]["fit"], "of the whole run, not up to this checkpoint"
    validated = again("validate", fitted, best, "validated")
    assert validated["test_looks"] == 2, "validation classes are no test classes"
    if first["selected_step"] != 6:
        third = again("test", fitted, last, "third")
        assert third["selection"] == {"split": "none", "metric": None, "step": 6, "looks": 3}

    elsewhere = fitted.parents[1] / "moved.ckpt"
    elsewhere.write_bytes(best.read_bytes())
    moved = again("test", fitted, elsewhere, "moved")
    assert moved["selection"]["split"] == "validation"
    assert moved["test_looks"] is None
    fit, step = moved["cost"]["fit"], first["selected_step"]
    assert (fit["steps"], fit["images"]) == (step, 16 * step), "of what it came after is nothing known there"


def test_a_run_that_goes_on_has_the_costs_of_before(fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("lifted_lightning.callbacks.costs.core_seconds", lambda loaders: 5.0)  # nothing from now on
    now = {"commit": "f" * 40, "changed": False}
    monkeypatch.setattr("lifted_lightning.callbacks.outputs.git_state", lambda: now)
    last = fitted / "checkpoints" / "last.ckpt"
    more = again("fit", fitted, last, "more", "--trainer.max_steps=8", "--best_checkpoint.monitor=null")
    before = torch.load(last, weights_only=True)["lifted_progress"]["spent"]
    assert more["cost"]["fit"]["core_seconds"] == before["core_seconds"] > 0
    assert more["cost"]["fit"]["images"] == 8 * 16
    assert more["selection"] == {"split": "none", "metric": None, "step": 8, "looks": 4}
    assert more["test_looks"] == 1
    assert (result_of(fitted)["git"], more["git"]) == (BEGUN, now | {"before": [BEGUN]})
    assert again("test", fitted, last, "elsewhen")["git"] == more["git"], "of the training, and of this evaluation"


def test_a_run_that_goes_on_from_an_older_version_tells_no_part_as_the_whole(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    content = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    for key in ("spent", "metric", "selected"):
        del content["lifted_progress"][key]
    torch.save(content, older := tmp_path / "older.ckpt")
    tested = again("test", fitted, older, "tested-older")
    assert (tested["cost"]["fit"], tested["selection"]) == (None, None)
    result = again("fit", fitted, older, "older", "--trainer.max_steps=8")
    assert result["cost"]["fit"] is None
    assert result["selection"]["looks"] == 4
    assert result["cost"]["evaluation"]["core_seconds"] > 0
