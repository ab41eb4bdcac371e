"""The result that a run leaves."""

import json
from pathlib import Path

import pytest

from lifted_lightning.callbacks.outputs import with_training_means
from lifted_lightning.cli import main
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
    arguments += f" --tsne.every_n=0 --gallery.every_n=0 --name=run --runs_dir={tmp_path}"
    assert main([*FIT, *arguments.split()]) == 0
    result = json.loads((tmp_path / "e" / "run" / "result.json").read_text())
    assert not list(tmp_path.glob("*/run/plots/*"))
    assert result["stage"] == "validation"
    assert not result["test"]
    assert [row["step"] for row in result["history"]] == [3, 6]
    assert result["history"][0]["seconds"] < result["history"][1]["seconds"] <= result["seconds"]["fit"]
    assert result["history"][-1]["validation/map@r"] == result["validation"]["map@r"] or result["selected_step"] == 3
    assert all(row["train/loss"] > 0 and row["batch/positive_distance"] > 0 for row in result["history"])
