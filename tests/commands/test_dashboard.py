"""`lifted dashboard`: the workspace that it would save, without a server."""

import json
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.callbacks import tables
from lifted_lightning.cli import main
from lifted_lightning.commands import dashboard
from tests.helpers.wandb_server import StandIn


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
    drawn = [f"plots/{kind}_{stage}" for kind in ("tsne", "gallery") for stage in ("test", "validation")]
    assert keys == [*drawn, "plots/confusions_test"]
    assert len(panels["Run Comparer"]) == 1
    table = panels["Vega2"][0]["userQuery"]["queryFields"][0]["fields"][0]["args"][0]["value"]
    assert table == dashboard.RECALL_CURVE == f"{tables.RECALL_CURVE}_table"


def test_a_saved_workspace_is_read_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import wandb
    from wandb_workspaces.workspaces import Workspace

    server = StandIn()
    for name, value in server.environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    wandb.teardown()
    try:
        assert main(["dashboard", "--project", "ablation", "--entity", "team"]) == 0
        url = capsys.readouterr().out.strip()
        assert url.startswith(f"{server.url}/team/ablation?nw=")
        read = Workspace.from_url(url)
    finally:
        wandb.teardown()
    assert (read.name, read.entity, read.project) == (dashboard.NAME, "team", "ablation")
    saved = dashboard.workspace("ablation", "team")
    assert [(s.name, len(s.panels)) for s in read.sections] == [(s.name, len(s.panels)) for s in saved.sections]
    assert [type(p) for s in read.sections for p in s.panels] == [type(p) for s in saved.sections for p in s.panels]
    assert read.settings.x_axis == saved.settings.x_axis
