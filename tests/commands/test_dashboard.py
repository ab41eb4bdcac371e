"""`lifted dashboard`: the workspace that it would save, without a server."""

import json
from typing import Any

import pytest

from lifted_lightning.callbacks import tables
from lifted_lightning.cli import main
from lifted_lightning.commands import dashboard


def test_the_workspace(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # whoever asks the server fails
    assert main(["dashboard", "--project", "ablation", "--entity", "lab", "--dry-run"]) == 0
    spec = json.loads(capsys.readouterr().out)
    assert (spec["entity"], spec["project"], spec["name"]) == ("lab", "ablation", "Losses compared")
    panels: dict[str, list[dict[str, Any]]] = {}  # by kind
    for section in spec["spec"]["section"]["panelBankConfig"]["sections"]:
        for panel in section["panels"]:
            panels.setdefault(panel["viewType"], []).append(panel["config"])
    bars, lines, points = (panels[kind] for kind in ("Bar Chart", "Run History Line Plot", "Scatter Plot"))
    assert [p["metrics"][0] for p in bars] == ["test/recall@1", "test/map@r", "test/nmi", "test/f1"]
    shown = {p["metrics"][0] for p in lines}
    assert {"validation/recall@1", "validation/map@r", "train/loss", "batch/active_share", "lr/trunk"} <= shown
    assert ["validation/recall@1", "baseline/recall@1"] in [p["metrics"] for p in lines]
    assert all(p["groupBy"] == "loss.value" and p["groupArea"] == "stderr" for p in bars + lines)
    assert {p["xAxis"] for p in lines} == {"trainer/global_step"}
    assert {p["xAxis"] for p in points} == {"config:embedding_size.value"}
    assert [p["yAxis"] for p in points][:2] == ["summary:best/map@r", "summary:test/recall@1"]
    keys = [p["mediaKeys"][0] for p in panels["Media Browser"]]
    assert keys == [f"plots/{kind}_{stage}" for kind in ("tsne", "gallery") for stage in ("test", "validation")]
    assert len(panels["Run Comparer"]) == 1
    table = panels["Vega2"][0]["userQuery"]["queryFields"][0]["fields"][0]["args"][0]["value"]
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
