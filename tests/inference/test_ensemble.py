"""Models alone and together equal what is found by hand, and are evaluated once."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lifted_lightning
from lifted_lightning.cli import main
from lifted_lightning.runs.checkpoint import SETTINGS_KEY
from lifted_lightning.runs.evaluations import looks_at_test
from tests.commands.test_fit import QUICKSTART, SHORT, SMALL, lifted
from tests.helpers.checkpoints import save_checkpoint
from tests.helpers.images import draw_images
from tests.helpers.run_folders import make_run

CLASSES, EACH = 6, 5


def checkpoint_of(run: Path, images: Path, number: int) -> Path:
    """A model of its own in a run's folder, which says how it was to be tested."""
    path = save_checkpoint(run / "checkpoints" / "best.ckpt")
    saved = torch.load(path, weights_only=True)
    random = torch.Generator().manual_seed(number)
    for value in saved["state_dict"].values():
        if value.is_floating_point():
            value += 0.1 * torch.randn(value.shape, generator=random) * value.abs().mean()
    config = yaml.safe_load(saved[SETTINGS_KEY])
    own = {"class_path": "lifted_lightning.data.datasets.ImageFolder", "init_args": {"path": str(images)}}
    config["data"] |= {"dataset": own, "sampler": {"class_path": "lifted_lightning.PositivePairs"}}
    config["data"] |= {"cache_dir": str(images.parent / "cache"), "eval_batch_size": 4}
    config["evaluation"] |= {"ks": [1, 2, 4], "clustering": "k-means", "clustering_start": "k-means++"}
    torch.save(saved | {SETTINGS_KEY: yaml.safe_dump(config)}, path)
    return path


def by_hand(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Recall@K and MAP@R, query by query."""
    found: dict[str, list[float]] = {name: [] for name in ("recall@1", "recall@2", "recall@4", "map@r")}
    for query in range(len(labels)):
        others = np.delete(np.arange(len(labels)), query)
        distances = np.square(embeddings[others] - embeddings[query]).sum(axis=1)
        hits = labels[others[np.argsort(distances)]] == labels[query]
        for k in (1, 2, 4):
            found[f"recall@{k}"].append(hits[:k].any())
        precisions = [hits[: i + 1].mean() * hits[i] for i in range(hits.sum())]
        found["map@r"].append(float(np.mean(precisions)))
    return {name: float(np.mean(values)) for name, values in found.items()}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two repeats on two folds, validated only, and one run that lost its best checkpoint."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    draw_images(tmp_path / "images", CLASSES, EACH)
    for number, (seed, fold) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        about = {"test": {}, "stage": "validation", "data__folds": 2, "data__fold": fold}
        checkpoint_of(make_run(tmp_path / "runs" / f"s{seed}f{fold}", seed, **about), tmp_path / "images", number)
    about = {"test": {}, "stage": "validation", "selected_step": 50, "data__folds": 2, "data__fold": 0}
    lost = checkpoint_of(make_run(tmp_path / "runs" / "lost", 2, **about), tmp_path / "images", 4)
    lost.rename(lost.with_name("last.ckpt"))
    # Of `lifted test`, without a model of its own, and before its run in the order of names.
    make_run(tmp_path / "runs" / "before-s1f1", 1, baseline={}, data__folds=2, data__fold=1)
    return tmp_path / "runs"


def test_equal_to_concatenation_by_hand_and_evaluated_once(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(runs), "--ensemble"]) == 0
    told = capsys.readouterr().out
    assert "without their selected checkpoint, so that they are not in an ensemble: runs/lost" in told
    assert "in ensembles/ of the report: 6 results written, 0 found there" in told
    results = [json.loads(path.read_text()) for path in (runs / "report" / "ensembles").glob("*/result.json")]
    paths = sorted((tmp_path / "images").rglob("*.*"))
    paths = [path for path in paths if int(path.parent.name.split()[1]) >= CLASSES // 2]
    labels = np.array([int(path.parent.name.split()[1]) for path in paths])
    assert len(results) == 6
    for result in results:
        parts = []
        for member in result["members"]:
            run = runs.parent / member["run"]
            model = lifted_lightning.load(run / "checkpoints" / member["checkpoint"], "cpu")
            assert member["sha256"] == model.sha256
            parts.append(model.embed([str(path) for path in paths]).astype(np.float64))
        if len(parts) > 1:
            assert [member["run"][-2:] for member in result["members"]] == ["f0", "f1"]
            parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
        expected = by_hand(np.concatenate(parts, axis=1), labels)
        assert {name: result["test"][name] for name in expected} == pytest.approx(expected)
        assert 0 < result["test"]["nmi"] <= 1
    assert len({json.dumps(result["test"]) for result in results}) > 1
    for run in ("s0f0", "s1f1"):  # once alone, once together
        assert looks_at_test(runs / run, "images") == 2
    page = (runs / "report" / "report.md").read_text()
    assert "| LiftedStructure | 10-d, concatenated | 2 × 2 models |" in page.replace("  ", " ")
    assert "unseen test classes" in page.splitlines()[0]  # the runs' own tests, too, are those
    assert "raw pixels" not in page, "the runs have seen these on their validation classes alone"

    def refuse(*_: object) -> None:
        raise AssertionError("was evaluated before")

    monkeypatch.setattr("lifted_lightning.inference.ensemble.load", refuse)
    shutil.rmtree(tmp_path / "images")
    assert main(["report", str(runs), "--ensemble"]) == 0
    assert "0 results written, 6 found there" in capsys.readouterr().out
    assert (runs / "report" / "report.md").read_text().splitlines()[:3] == page.splitlines()[:3]
    tables = [(runs / "report" / name).read_text() for name in ("table.csv", "ensembles.csv")]
    for checkpoints in runs.glob("*/checkpoints"):
        shutil.rmtree(checkpoints)
    assert main(["report", str(runs), "--ensemble"]) == 0  # from what was found of the models
    assert "0 results written, 6 found there" in capsys.readouterr().out
    assert [(runs / "report" / name).read_text() for name in ("table.csv", "ensembles.csv")] == tables
    one = next((runs / "report" / "ensembles").iterdir())
    shutil.copytree(one, one.with_name("z-later"))
    assert main(["report", str(runs), "--ensemble"]) == 2
    assert f"z-later: is of the same runs as {one.name}; remove" in capsys.readouterr().err
    assert main(["report", str(runs)]) == 0  # without it the results are no runs
    assert "validation classes" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_one_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(runs.parent / "images")
    assert main(["report", str(runs), "--ensemble"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_alone_they_are_what_lifted_test_finds(tmp_path: Path) -> None:
    """Two folds of a real run: each model's figures are, to the last bit, those of `lifted test`."""
    folder = tmp_path / "work"
    folder.mkdir()
    short = [*SHORT, *SMALL, "--tsne.every_n=0", "--gallery.every_n=0", "--confusions.every_n=0", "--data.folds=2"]
    for fold in (0, 1):
        names = [f"--data.fold={fold}", f"--name=fold{fold}", "--experiment=e", "--test=false"]
        done = lifted(folder, "fit", "--config", QUICKSTART, *short, *names)
        assert done.returncode == 0, done.stderr
    assert (done := lifted(folder, "report", "runs/e", "--ensemble")).returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in (folder / "runs/e/report/ensembles").glob("*/result.json")]
    alone = {result["members"][0]["run"]: result["test"] for result in found if len(result["members"]) == 1}
    tested = lifted(
        folder, "test", "--config=runs/e/fold1/config.yaml", "--ckpt_path=best", "--name=t", "--experiment=t"
    )
    assert tested.returncode == 0, tested.stderr
    assert json.loads((folder / "runs" / "t" / "t" / "result.json").read_text())["test"] == alone["e/fold1"]
