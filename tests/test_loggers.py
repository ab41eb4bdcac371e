"""The metrics file, and W&B's record offline."""

import os
from pathlib import Path

import pytest
import torch

from lifted_lightning.loggers import MetricsFile, read_metrics, wandb_logger


def test_rows_are_kept_when_columns_appear_later(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.log_metrics({"train/loss": torch.tensor(2.0)}, step=0)
    file.save()
    file.log_metrics({"train/loss": 1.0}, step=1)
    file.log_metrics({"validation/map@r": 0.5}, step=1)
    file.save()
    file.log_metrics({"train/loss": 0.5}, step=2)
    file.save()
    assert read_metrics(tmp_path / "metrics.csv") == [
        {"step": "0", "train/loss": "2.0", "validation/map@r": ""},
        {"step": "1", "train/loss": "1.0", "validation/map@r": "0.5"},
        {"step": "2", "train/loss": "0.5", "validation/map@r": ""},
    ]


def test_a_resumed_run_continues_the_file_and_repeats_no_row(tmp_path: Path) -> None:
    before = MetricsFile(tmp_path)
    for step in range(5):
        before.log_metrics({"train/loss": float(step)}, step=step)
    before.save()
    with open(tmp_path / "metrics.csv", "a") as file:
        file.write("5")  # cut short by a killed process
    after = MetricsFile(tmp_path)
    after.resume(3)
    after.log_metrics({"train/loss": 30.0}, step=3)
    after.save()
    rows = [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rows == [("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "30.0")]


@pytest.fixture
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.usefixtures("_no_account")
def test_without_an_account_the_record_is_offline_and_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    first = wandb_logger(tmp_path, project="test", config={"loss": "LiftedStructureLoss"})
    assert first is not None
    assert first.experiment.settings.mode == "offline"
    identity = first.experiment.id
    first.experiment.finish()
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{identity}"))
    again = wandb_logger(tmp_path, project="test")
    assert again is not None
    assert again.experiment.id == identity
    again.experiment.finish()


def test_disabled_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_logger(tmp_path) is None
    assert os.listdir(tmp_path) == []
