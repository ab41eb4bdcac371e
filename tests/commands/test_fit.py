"""Real runs through the command line, in processes of their own, on a few Glyphs."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifted_lightning.commands.fit import parse

ROOT = Path(__file__).parents[2]
QUICKSTART = str(ROOT / "experiments" / "quickstart.yaml")
SHORT = ["--trainer.max_steps=12", "--data.batches_per_epoch=6", "--trainer.check_val_every_n_epoch=1"]
SMALL = [
    "--data.size=16",
    "--model.network.width=4",
    "--evaluation.clustering=none",
    "--trainer.log_every_n_steps=3",
]
NO_PICTURES = ["--tsne.points=60", "--gallery.neighbours=2"]


def lifted(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does, in a folder of one's own."""
    settings = {"WANDB_MODE": "offline", "LIFTED_CACHE_DIR": str(folder.parent / "cache"), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "lifted_lightning.cli", *arguments],
        cwd=folder,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a short run, and what it printed."""
    folder = tmp_path_factory.mktemp("fit") / "work"
    folder.mkdir()
    done = lifted(folder, "fit", "--config", QUICKSTART, *SHORT, *SMALL, *NO_PICTURES)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "quickstart" / "lifted-structure-64d-seed0", done.stdout + done.stderr


def test_a_configuration_tells_which_share_or_fold_validates() -> None:
    folds = ["--data.folds=4", "--data.fold=1"]
    for given, told in (
        ([], (0.2, None, None)),
        (folds, (None, 4, 1)),
        (["--data.validation_share=0"], (0, None, None)),
    ):
        data = parse("fit", ["--config", QUICKSTART, *given])["data"]
        assert (data["validation_share"], data["folds"], data["fold"]) == told


def test_the_folder_holds_what_a_run_leaves(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    names = {p.name for p in run.iterdir()} - {".lock"}
    files = {"config.yaml", "evaluations.csv", "metrics.csv", "per_class.csv", "confusions.csv", "result.json"}
    assert names == files | {"checkpoints", "plots", "wandb"}
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {"tsne_test.png", "gallery_test.png", "confusions_test.png"} <= {p.name for p in (run / "plots").iterdir()}


def test_the_result_is_the_contract(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    result = json.loads((run / "result.json").read_text())
    assert result["name"] == "quickstart/lifted-structure-64d-seed0"
    assert (result["dataset"], result["loss"], result["embedding_size"]) == ("glyphs", "LiftedStructureLoss", 64)
    assert (result["seed"], result["steps"]) == (0, 12)
    for part in ("validation", "test", "baseline"):
        assert {"recall@1", "recall@8", "r_precision", "map@r"} <= result[part].keys()
        assert all(0 <= result[part][name] <= 1 for name in ("recall@1", "map@r"))
    assert result["seconds"]["fit"] > 0
    assert result["images_per_second"] > 0
    assert result["versions"]["torch"]
    text = json.dumps(result)
    assert not any(secret in text for secret in (str(run.parents[2]), os.path.expanduser("~"), os.uname().nodename))


def test_the_output_is_a_table_and_what_to_do_next(first_run: tuple[Path, str]) -> None:
    _, text = first_run
    run = "runs/quickstart/lifted-structure-64d-seed0"
    for words in ("recall@1", "map@r", "raw pixels", "pictures:", run, "wandb leet"):
        assert words in text
    for noise in ("Tip:", "LeafSpec", "UserWarning", "FutureWarning", "Traceback", "litlogger"):
        assert noise not in text


def test_the_metrics_file_has_training_validation_and_test(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    losses = [row for row in rows if row["train/loss"]]
    assert [int(row["step"]) for row in losses] == [2, 5, 8, 11]
    assert sum(bool(row["validation/map@r"]) for row in rows) == 2
    assert sum(bool(row["test/recall@1"]) for row in rows) == 1
    assert all(float(row["batch/classes"]) == 32 for row in losses)


def test_the_selected_checkpoint_is_the_best_on_validation(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["validation/map@r"]]
    best = max(float(row["validation/map@r"]) for row in rows)
    result = json.loads((run / "result.json").read_text())
    assert result["validation"]["map@r"] == pytest.approx(best, abs=1e-6)


def test_the_wandb_record_can_be_read(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    records = inspect(run)
    begun = next(record["run"] for record in records if record["type"] == "run")
    assert begun["display_name"] == "quickstart/lifted-structure-64d-seed0"
    assert begun["run_group"].startswith("glyphs/lifted-structure-64d-")
    assert begun["job_type"] == "fit"
    assert begun["tags"] == ["LiftedStructureLoss", "glyphs", "64d", "quickstart"]
    config = begun["config"]["update"]
    assert config["model.loss.init_args.margin"] == 1.0
    assert (config["loss"], config["embedding_size"], config["seed"]) == ("LiftedStructureLoss", 64, 0)
    steps = [r["metric"] for r in records if r["type"] == "metric" and r["metric"].get("glob_name") == "*"]
    assert steps[0]["step_metric"] == "trainer/global_step"


def test_the_wandb_summary_has_test_and_best_validation(first_run: tuple[Path, str]) -> None:
    run, _ = first_run
    result = json.loads((run / "result.json").read_text())
    summary: dict[str, object] = {}
    for record in inspect(run):
        summary |= record.get("summary", {}).get("update", {})
    for stage, values in (("test", result["test"]), ("best", result["validation"])):
        for name, value in values.items():
            assert summary[f"{stage}/{name}"] == pytest.approx(value, abs=1e-6), f"{stage}/{name}"
    kinds = {key.split(".")[0] for key in summary}
    drawn = {f"plots/{kind}_test" for kind in ("tsne", "gallery", "confusions", "per_class", "confusions_table")}
    assert drawn <= kinds
    table = json.loads(
        next(run.glob("wandb/offline-run-*/files/media/table/plots/recall_curve_test_table*")).read_text()
    )
    curve = dict(table["data"])
    assert table["columns"] == ["K", "recall"]
    assert curve[1] == pytest.approx(result["test"]["recall@1"])
    assert list(curve)[:4] == [1, 2, 4, 8]
    assert sorted(curve.values()) == list(curve.values())


def inspect(run: Path) -> list[dict[str, Any]]:
    """The records of a run's W&B file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run / "wandb")]
    lines = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


OWN = """
import torch
from lifted_lightning import EmbeddingModule

class MyLoss(torch.nn.Module):
    def __init__(self, num_classes: int, weight: float = 2.0):
        super().__init__()
        self.weight, self.proxies = weight, torch.nn.Parameter(torch.zeros(num_classes, 1))
    def forward(self, embeddings, labels):
        return self.weight * (embeddings - self.proxies[labels]).square().mean()

class MyModule(EmbeddingModule):
    def compute_loss(self, batch, embeddings, labels):
        assert len(batch["images"]) == len(labels)
        return 3 * self.loss(embeddings, labels)
"""
BRIEF = [*SMALL, "--trainer.max_steps=2", "--data.batches_per_epoch=2", "--evaluation.baseline=false"]


def test_a_loss_with_proxies_and_a_module_of_ones_own(first_run: tuple[Path, str]) -> None:
    work = first_run[0].parents[2]
    (work / "mine.py").write_text(OWN)
    own = ["--model=mine.MyModule", "--model.loss=mine.MyLoss", "--model.loss.weight=5", "--name=own"]
    done = lifted(work, "fit", "--config", QUICKSTART, *BRIEF, *NO_PICTURES, *own)
    assert done.returncode == 0, done.stderr
    run = first_run[0].with_name("own")
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model_class"] == "mine.MyModule"
    assert config["model"]["loss"] == {"class_path": "mine.MyLoss", "init_args": {"weight": 5.0}}


def test_without_validation_classes_the_last_checkpoint_is_kept_and_selected(first_run: tuple[Path, str]) -> None:
    work = first_run[0].parents[2]
    (work / "saves.py").write_text(SAVES)
    own = [
        "--trainer.callbacks=saves.Saves",
        "--last_checkpoint.every_n_steps=2",
        "--trainer.max_steps=6",
        "--name=last",
    ]
    none = ["--data.validation_share=0", "--tsne.every_n=0", "--gallery.every_n=0", "--confusions.every_n=0"]
    done = lifted(work, "fit", "--config", QUICKSTART, *BRIEF, *own, *none)
    assert done.returncode == 0, done.stderr
    assert (work / "saves.txt").read_text().split() == ["2", "4", "6"]
    assert "pictures:" not in done.stdout
    result = json.loads((first_run[0].with_name("last") / "result.json").read_text())
    assert result["validation"] == {}
    assert result["selected_step"] == 6
    assert result["test"]["recall@1"] > 0


SAVES = """
from pathlib import Path
from pytorch_lightning import Callback

class Saves(Callback):
    def on_save_checkpoint(self, trainer, pl_module, checkpoint):
        with open("saves.txt", "a") as file:
            file.write(f"{trainer.global_step} ")
"""
