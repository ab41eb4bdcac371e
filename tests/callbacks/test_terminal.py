"""The table that ends a run."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from lifted_lightning.callbacks.terminal import metrics_table, print_summary

RESULT = {
    "dataset": "own", "steps": 10, "selected_step": 8, "loss": "TripletLoss", "embedding_size": 8,
    "baseline_name": "raw pixels",
    "test": {"recall@1": None, "map@r": 0.25}, "baseline": {"recall@1": None, "map@r": 0.125},
    "config": {"data": {"folds": 0, "fold": 0}},
}  # fmt: skip


def test_an_untrained_network_is_called_so() -> None:
    assert "own, TripletLoss, 8-d" in str(metrics_table(RESULT, "test").title)
    assert "own, untrained" in str(metrics_table(RESULT | {"steps": 0}, "test").title)


@pytest.mark.parametrize("trained", [True, False])
def test_a_run_that_trained_can_be_repeated_with_the_next_seed(
    trained: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    selection = {"split": "validation", "metric": "validation/map@r"}
    (tmp_path / "result.json").write_text(json.dumps(RESULT | {"seed": 3, "selection": selection}))
    print_summary(tmp_path, "test", trained)
    out = capsys.readouterr().out
    assert (
        ("--seed_everything 4\n" in out) == ("the checkpoint of step 8 of 10, by validation/map@r\n" in out) == trained
    )


@pytest.mark.parametrize(("fold", "following"), [(0, "--data.fold 1\n"), (2, "--data.fold 3\n"), (3, "")])
def test_a_fold_s_run_says_how_to_train_the_next(
    fold: int, following: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"data": {"folds": 4, "fold": fold}}
    (tmp_path / "result.json").write_text(json.dumps(RESULT | {"seed": 0, "config": config}))
    print_summary(tmp_path, "test", trained=True)
    out = capsys.readouterr().out
    assert following in out
    assert ("--data.fold" in out) == bool(following)


def test_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "[red]"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(RESULT | {"dataset": "[/x] [bold]", "seed": 0}))
    print_summary(folder, "test", trained=True)
    out = capsys.readouterr().out
    assert "[/x] [bold], TripletLoss" in " ".join(out.split())
    assert "[red]/config.yaml" in out


def test_a_metric_without_a_value_is_a_dash() -> None:
    printed = io.StringIO()
    Console(file=printed, width=80).print(metrics_table(RESULT, "test"))
    lines = printed.getvalue().splitlines()
    assert next(line.split() for line in lines if "recall@1" in line)[3] == "–"
    assert next(line.split() for line in lines if "map@r" in line)[3:6:2] == ["0.250", "0.125"]
