"""What makes two runs the same: one answer for a group of W&B and a row of a report."""

import json
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.runs.settings import (
    LONGEST_NAME,
    comparable,
    group_name,
    metric_names,
    metrics_in_order,
    relative_paths,
    slug,
)
from tests.helpers.run_folders import make_run
from tests.report.test_compare import compared

SAME: list[dict[str, Any]] = [
    {"seed": 1, "seed_everything": 1},
    {"name": "another", "runs_dir": "/elsewhere", "experiment": "again", "ckpt_path": "last"},
    {"tsne__every_n": 9, "evaluation__baseline": False, "data__workers": 7, "data__root": "/data"},
    {"trainer__devices": 2, "trainer__logger": {"class_path": "MyLogger"}, "trainer__max_steps": 100.0},
    {"model__network__init_args__embedding_size": 64, "data__dataset": {"class_path": "Omniglot"}},
    {"evaluation__metrics": [{"class_path": "my_metric.HubnessRate"}]},
    {"data__folds": None, "data__fold": None},
    {"data__single_images": "refuse", "data__interpolation": "bilinear"},  # came later, and mean what went before
]
OTHER: list[dict[str, Any]] = [
    {"embedding_size": 32},
    {"dataset": "cub200"},
    {"loss": "TripletLoss"},
    {"loss_arguments": {"margin": 0.5}},
    {"data__size": 32},
    {"data__folds": 4, "data__fold": 0},
    {"data__cache": False},
    {"data__single_images": "leave_out"},
    {"data__interpolation": "bicubic"},
    {"data__dataset": {"init_args": {"turned": True}}},
    {"evaluation__distance": "cosine"},
    {"trainer__max_steps": 101},
    {"trainer__precision": "bf16-mixed"},
]
UNTRAINED: list[dict[str, Any]] = [
    {"steps": 0},
    {"steps": 0, "loss": "TripletLoss"},
    {"steps": 0, "model__head_lr_factor": 7.0},
]


def test_two_runs_share_a_group_of_wandb_exactly_if_they_share_a_row_of_the_report(tmp_path: Path) -> None:
    for number, changes in enumerate([{}, *SAME, *OTHER, *UNTRAINED]):
        make_run(tmp_path / f"run{number}", **{"seed": 10 + number, **changes})  # a seed counts once in a row
    groups: dict[str, set[str]] = {}
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        groups.setdefault(group_name(result["config"], result), set()).add(path.parent.name)
    runs = compared(tmp_path).runs
    rows = [{folder.name for folder in of_row["folder"]} for _, of_row in runs.groupby("row")]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, rows))
    assert sorted(map(len, rows)) == [1] * len(OTHER) + [len(UNTRAINED), 1 + len(SAME)]


def test_folds_of_a_configuration_share_a_group_as_its_seeds_do(tmp_path: Path) -> None:
    for fold in range(3):
        make_run(tmp_path / f"run{fold}", seed=fold % 2, data__folds=3, data__fold=fold)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert len({group_name(result["config"], result) for result in results}) == 1
    assert len(compared(tmp_path).rows) == 1


def test_a_group_s_name_tells_what_it_is_and_is_short_enough_for_wandb() -> None:
    summary = {"loss": "LiftedStructureLoss", "embedding_size": 64, "dataset": "CUB-200-2011"}
    assert group_name({}, summary).startswith("cub-200-2011/lifted-structure-64d-")
    assert len(group_name({}, summary | {"dataset": "x" * 500})) == LONGEST_NAME


def test_what_a_run_is_does_not_name_its_seed_or_its_machine() -> None:
    config = {"seed_everything": 3, "data": {"root": "/data", "size": 28.0}, "trainer": {"logger": {"a": {"b": 1}}}}
    assert comparable(config, {"dataset": "own", "embedding_size": 8, "seed": 3}) == {
        "dataset": "own", "embedding_size": 8, "data.size": 28,
    }  # fmt: skip


def test_metrics_are_shown_in_one_order() -> None:
    assert metric_names([1, 10], clustering=False) == ["recall@1", "recall@10", "r_precision", "map@r"]
    names = ["f1", "nmi", "queries_without_positive", "map@r", "recall@10", "recall@2", "recall@all"]
    assert metrics_in_order(names) == ["recall@2", "recall@10", "map@r", "nmi", "f1"]
    assert metrics_in_order(["hubs", *names, "age"]) == ["recall@2", "recall@10", "map@r", "nmi", "f1", "hubs", "age"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("LiftedStructure", "lifted-structure"), ("CUB-200-2011", "cub-200-2011"), ("a b/C", "a-b-c"), ("///", "run")],
)
def test_slug(text: str, expected: str) -> None:
    assert slug(text) == expected


def test_results_tell_nothing_of_the_machine(tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "runs" / "a"
    config = {"data": {"root": str(data / "cub"), "size": 256}, "file": "/home/someone/w.pth", "out": [str(run / "x")]}
    assert relative_paths(config, data, run) == {
        "data": {"root": "<data>/cub", "size": 256}, "file": "<elsewhere>/w.pth", "out": ["<run>/x"],
    }  # fmt: skip


def test_an_untrained_run_is_the_same_whether_or_not_it_knows_of_later_settings_of_training() -> None:
    new = {"ckpt_path": None, "model": {"layer_decay": 1.0, "frozen": None}, "data": {"interpolation": "bilinear"}}
    old = {"ckpt_path": None, "model": {}, "data": {}}
    summary = {"dataset": "d", "embedding_size": 8, "steps": 0}
    assert comparable(old, summary) == comparable(new, summary)
