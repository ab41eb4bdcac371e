"""`lifted dashboard`: the workspace that it would save, without a server."""

import json
from typing import Any

import pytest

from lifted_lightning.callbacks import tables
from lifted_lightning.cli import main
from lifted_lightning.commands import dashboard

Panel = dict[str, Any]


@pytest.fixture
def spec(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whoever asks the server fails
    assert main(["dashboard", "--project", "ablation", "--entity", "lab", "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out)


def panels(spec: dict[str, Any], kind: str) -> list[Panel]:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return [p["config"] for s in sections for p in s["panels"] if p["viewType"] == kind]


def test_it_goes_to_the_project(spec: dict[str, Any]) -> None:
    assert (spec["entity"], spec["project"], spec["name"]) == ("lab", "ablation", "Losses compared")


def test_test_and_validation_metrics_are_grouped_by_loss(spec: dict[str, Any]) -> None:
    bars, lines = panels(spec, "Bar Chart"), panels(spec, "Run History Line Plot")
    assert [p["metrics"][0] for p in bars] == ["test/recall@1", "test/map@r", "test/nmi", "test/f1"]
    shown = [p["metrics"][0] for p in lines]
    assert {"validation/recall@1", "validation/map@r", "train/loss", "batch/active_share", "lr/trunk"} <= set(shown)
    assert ["validation/recall@1", "baseline/recall@1"] in [p["metrics"] for p in lines]
    assert all(p["groupBy"] == "loss.value" and p["groupArea"] == "stderr" for p in bars + lines)
    assert {p["xAxis"] for p in lines} == {"trainer/global_step"}


def test_metrics_against_embedding_size(spec: dict[str, Any]) -> None:
    points = panels(spec, "Scatter Plot")
    assert {p["xAxis"] for p in points} == {"config:embedding_size.value"}
    assert [p["yAxis"] for p in points][:2] == ["summary:best/map@r", "summary:test/recall@1"]


def test_pictures_curve_and_comparison(spec: dict[str, Any]) -> None:
    keys = [p["mediaKeys"][0] for p in panels(spec, "Media Browser")]
    assert keys == [f"plots/{kind}_{stage}" for kind in ("tsne", "gallery") for stage in ("test", "validation")]
    assert len(panels(spec, "Run Comparer")) == 1
    table = panels(spec, "Vega2")[0]["userQuery"]["queryFields"][0]["fields"][0]["args"][0]["value"]
    assert table == dashboard.RECALL_CURVE == f"{tables.RECALL_CURVE}_table"


def test_saving_asks_the_server_and_gives_the_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import wandb
    from wandb_workspaces.workspaces import Workspace

    saved = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda prompt: True)
    monkeypatch.setattr(Workspace, "save", lambda self: saved.append((self.entity, self.project)))
    monkeypatch.setattr(Workspace, "url", "https://wandb.example/lab/ablation?nw=1")
    assert main(["dashboard", "--project", "ablation", "--entity", "lab"]) == 0
    assert saved == [("lab", "ablation")]
    assert capsys.readouterr().out == "https://wandb.example/lab/ablation?nw=1\n"
