"""The metrics file, and W&B's record offline."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lifted_lightning.errors import UserError
from lifted_lightning.runs import loggers
from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.runs.loggers import MetricsFile, end_wandb_service, wandb_logger, wandb_mode


def test_rows_are_kept_when_columns_appear_later(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    loss, score = {"train/loss": 0.5}, {"validation/map@r": 0.5}
    for step, *rows in ((0, {"train/loss": torch.tensor(2.0)}), (1, {"train/loss": 1.0}, score), (2, loss), (2, loss)):
        for row in rows:
            file.log_metrics(row, step=step)
        file.save()
    assert (tmp_path / "metrics.csv").read_text().count("0.5,\n") == 2
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
    size = (tmp_path / "metrics.csv").stat().st_size
    after = MetricsFile(tmp_path)
    after.log_metrics({"train/loss": 30.0}, step=3)
    after.save()
    assert (tmp_path / "metrics.csv").stat().st_size > size, "it is added to"
    rows = [(row["step"], row["train/loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rows == [("0", "0.0"), ("1", "1.0"), ("2", "2.0"), ("3", "30.0")]


def test_a_users_own_line_is_of_the_latest_step(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.log_metrics({"train/loss": 2.0, "step": 9.0}, step=4)
    file.log_metrics({"mine": 7})
    file.log_metrics({"mine": 8}, step=4.0)  # type: ignore[arg-type]  # so Lightning passes on `self.log("step", 4)`
    file.save()
    assert read_metrics(file.path) == [{"step": "4", "train/loss": "2.0", "mine": "8"}]


@pytest.fixture
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A user who has never logged in; W&B reads the environment anew in each test."""
    import wandb

    wandb.teardown()  # it is another test's, whose service the environment names
    for variable in os.environ:
        if variable.startswith("WANDB_"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.mark.usefixtures("_no_account")
def test_without_an_account_the_record_is_offline_and_a_resumed_run_keeps_its_id(tmp_path: Path) -> None:
    assert wandb_mode() == "offline"
    run = tmp_path / "run"
    run.mkdir()
    first = wandb_logger(run, "offline", project="test", config={"loss": "LiftedStructureLoss"})
    identity = first.experiment.id
    first.experiment.finish()
    (record,) = (run / "wandb").glob(f"offline-run-*-{identity}")
    again = wandb_logger(run, "offline", project="test")
    assert again.experiment.id == identity
    again.experiment.finish()
    beside = tmp_path / "wandb" / record.name
    assert beside.is_symlink()
    assert beside.resolve() == record.resolve()


def test_a_users_own_artifacts_are_logged_though_a_tables_is_not_taken() -> None:
    logged: list[Any] = []

    def server(artifact: Any, *more: Any, **named: Any) -> str:
        if artifact.type == "run_table":
            raise ValueError("no such type")
        logged.append((artifact.name, more, named))
        return "taken"

    log = loggers._artifacts_of_tables_if_taken(server, 5.0)
    table, own = SimpleNamespace(type="run_table", name="t"), SimpleNamespace(type="model", name="mine")
    assert log(own, aliases=["best"]) == "taken"
    with pytest.warns(UserWarning, match="not as artifacts .ValueError: no such type"):
        assert log(table) is None
    assert log(table) is None
    assert log(own, "mine") == "taken"
    assert logged == [("mine", (), {"aliases": ["best"]}), ("mine", ("mine",), {})]


@pytest.mark.usefixtures("_no_account")
def test_a_sweep_agents_run_is_the_one_it_announced(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "agent123")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    logger = wandb_logger(tmp_path / "run", "offline", project="ours", group="a/b", name="c")
    run = logger.experiment
    assert (run.id, run.project, run.sweep_id, run.group) == ("agent123", "theirs", "sweep1", "a/b")
    run.finish()
    assert "Ignoring" not in capfd.readouterr().err
    for variable in ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_PROJECT"):
        monkeypatch.delenv(variable)
    import wandb

    wandb.teardown()
    resumed = wandb_logger(tmp_path / "run", "offline", project="ours")  # by hand, without the agent
    assert resumed.experiment.id == "agent123"
    resumed.experiment.finish()


@pytest.mark.usefixtures("_no_account")
def test_a_service_that_waits_for_ever_is_killed(tmp_path: Path) -> None:
    import wandb

    wandb_logger(tmp_path / "run", "offline", project="test").experiment.finish()
    service: Any = wandb.setup().ensure_service()._proc._process
    os.kill(service.pid, signal.SIGSTOP)
    end_wandb_service(patience=0.2)
    assert service.returncode == -signal.SIGKILL
    again = wandb_logger(tmp_path / "run", "offline", project="test")  # W&B can be used again
    again.experiment.finish()


@pytest.mark.usefixtures("_no_account")
def test_a_key_without_a_network_records_offline(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb

    def refuse(prompt: bool) -> bool:
        raise wandb.errors.AuthenticationError("no answer")

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", refuse)
    assert wandb_mode() == "offline"
    assert "recording offline" in capsys.readouterr().out


def test_a_mode_that_wandb_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.raises(UserError, match="WANDB_MODE=ofline: no such mode; set it to online, offline"):
        wandb_mode()


def test_a_record_that_does_not_end_is_left_with_what_to_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    run = SimpleNamespace(dir=str(tmp_path / "run-1" / "files"), finish=lambda code: threading.Event().wait())
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=run))  # type: ignore[arg-type]
    monkeypatch.setattr(loggers, "end_wandb_service", lambda: ended.append(1))
    monkeypatch.chdir(tmp_path)
    loggers.end_record(0.1, exit_code=0)
    assert ended == [1]
    assert capsys.readouterr().out == (
        "W&B has not taken all of the record (no end after 0.1 s); to upload it: wandb sync --no-skip-online run-1\n"
    )
