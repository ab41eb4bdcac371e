"""What a researcher adds from outside the package, each in a file of its own, used by class path from their folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
import yaml

import lifted_lightning
from lifted_lightning.commands.fit import parse
from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.sweep.plan import read_sweep
from lifted_lightning.sweep.trials import ordered_arguments
from lifted_lightning.training.networks import batchnorms
from tests.helpers.images import draw_images
from tests.helpers.lifted import lifted
from tests.helpers.tiny_evaluation import clusters, evaluated

ROOT = Path(__file__).parents[2]
OWN = ROOT / "experiments" / "own"
BRIEF = [
    "--config", str(ROOT / "experiments" / "quickstart.yaml"), "--trainer.max_steps=4", "--data.batches_per_epoch=2",
    "--data.batch_size=16", "--evaluation.baseline=false", "--evaluation.clustering=none",
]  # fmt: skip


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """They can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(str(OWN / "paper"))
    monkeypatch.syspath_prepend(str(OWN))
    yield
    for path in OWN.rglob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the examples."""
    return Path(shutil.copytree(OWN, tmp_path_factory.mktemp("outside"), dirs_exist_ok=True))


def run(work: Path, *arguments: str) -> None:
    """Run `lifted` in that folder, as a user does."""
    there = {"LIFTED_CACHE_DIR": str(work / "cache")}
    done = lifted(arguments, work, prepare=[partial(os.chdir, work)], environment=there)
    assert done.wait() == [0], done.output


@pytest.mark.slow
def test_loss_network_data_set_sampler_and_callback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        work, "fit", *BRIEF, "--model.loss=my_loss.MarginLoss", "--model.loss.margin=0.3", "--name=all",
        "--model.network=my_network.TwoLayers", "--model.network.embedding_size=8",
        "--data.dataset=my_images.Shapes", "--data.dataset.classes=12", "--data.dataset.images=8",
        "--data.sampler=my_sampler.ShuffledImages", "--data.sampler.least_images=3",
        "--trainer.callbacks+=my_callback.ClassCentres", "--trainer.callbacks+=my_callback.RecallOfClasses",
        "--trainer.callbacks.most=3", "--evaluation.metrics+=my_metric.HubnessRate",
        "--evaluation.metrics.neighbours=4", "--best_checkpoint.mode=min",
        "--best_checkpoint.monitor=validation/hubs@4",
    )  # fmt: skip
    folder = work / "runs" / "quickstart" / "all"
    with np.load(folder / "centres_test.npz") as file:
        assert file["classes"].tolist() == [6, 7, 8, 9, 10, 11], "the half that tests"
        assert file["centres"].shape == (6, 8)
    result = json.loads((folder / "result.json").read_text())
    rows = read_metrics(folder / "metrics.csv")
    for name in ("hubs@4", "hub_skewness@4", "never_found@4"):
        (logged,) = (row[f"test/{name}"] for row in rows if row[f"test/{name}"])
        assert float(logged) == pytest.approx(result["test"][name], abs=1e-6)
    hubs = [row["validation/hubs@4"] for row in result["history"]]
    assert result["validation"]["hubs@4"] == min(hubs), "what the checkpoint was selected by"
    of_classes = [key for key in rows[0] if key.startswith("test/recall@1 of class ")]
    assert len(of_classes) == 3
    assert all(0 <= float(row[key]) <= 1 for row in rows for key in of_classes if row[key])
    for name in ("my_loss.py", "my_network.py", "my_images.py", "my_sampler.py", "my_callback.py"):
        assert (folder / "code" / name).read_bytes() == (OWN / name).read_bytes(), "the run keeps it"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["evaluation"]["metrics"] == [
        {"class_path": "my_metric.HubnessRate", "init_args": {"neighbours": 4, "times": 3.0}}
    ]
    assert config["data"]["sampler"] == {"class_path": "my_sampler.ShuffledImages", "init_args": {"least_images": 3}}
    assert config["model"]["loss"]["init_args"] == {"margin": 0.3, "boundary": 1.2}
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert float(checkpoint["state_dict"]["loss.boundary"]) != pytest.approx(1.2, abs=1e-6), "it is trained"

    monkeypatch.chdir(work)
    model = lifted_lightning.load(folder / "checkpoints" / "best.ckpt", "cpu")
    assert type(model.module.network).__name__ == "TwoLayers"
    assert model.embed(import_module("my_images").draw_star("3/1")).shape == (1, 8)


@pytest.mark.slow
def test_a_pooling(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_images(work / "photos", classes=8)
    run(
        work, "fit", *(word.replace("quickstart", "photographs") for word in BRIEF), "--data.dataset.path=photos",
        "--model.network.trunk=timm:test_vit", "--model.network.pretrained=false", "--model.network.embedding_size=8",
        "--model.network.pooling=my_pooling.Attention", "--model.network.pooling.heads=3", "--name=pooled",
    )  # fmt: skip
    monkeypatch.chdir(work)
    model = lifted_lightning.load(work / "runs" / "photographs" / "pooled" / "checkpoints" / "last.ckpt", "cpu")
    assert model.module.network.pooling.score.out_channels == 3
    assert model.module.network.head.in_features == 3 * model.module.network.trunk.num_features
    assert np.isfinite(model.embed("photos/class 0/0.png")).all()


@pytest.mark.slow
def test_a_paper_with_two_views(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(
        work, "fit", *BRIEF, "--model=two_views.TwoViews", "--model.loss=two_views.SupervisedContrastiveLoss",
        "--model.augment=Affine", "--data.dataset=my_images.Shapes", "--data.dataset.images=8", "--name=views",
    )  # fmt: skip
    monkeypatch.chdir(work)
    model = lifted_lightning.load(work / "runs" / "quickstart" / "views" / "checkpoints" / "best.ckpt", "cpu")
    assert type(model.module).__name__ == "TwoViews"
    assert np.isfinite(model.embed(import_module("my_images").draw_star("3/1"))).all()


def test_the_folder_of_a_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it runs wherever it is copied is in test_wheel.py."""
    monkeypatch.chdir(OWN / "paper")
    sweep = read_sweep(Path("sweep.yaml"))
    for values in sweep.examples():
        config = parse("fit", [*sweep.fixed, *ordered_arguments(values)])
        assert config["data"]["dataset"]["class_path"].endswith(".Glyphs")
        assert (config["model_class"] is None) == (values["config"] != "centres.yaml")
    tests = vars(import_module("test_paper"))
    assert [tests[name]() for name in tests if name.startswith("test_")]


def test_classes_in_turn() -> None:
    labels = np.repeat([0, 1, 2, 3, -1, 4], [5, 4, 3, 2, 9, 6])
    made = import_module("centre_sampler").ClassesInTurn(3).bind(labels, batch_size=6)
    assert len(made) == 2
    batches = [made.global_batch(epoch, step) for epoch in range(50) for step in range(2)]
    for rows in batches:
        of_classes = labels[rows].reshape(2, 3)
        assert (of_classes == of_classes[:, :1]).all()
        assert len({row for row in rows if labels[row] not in (3, 2)}) == sum(labels[row] not in (3, 2) for row in rows)
    for one, other in zip(batches[::2], batches[1::2], strict=True):
        assert len(set(labels[one]) | set(labels[other])) == 4, "no class twice in a pass"


def test_a_centre_is_the_running_mean_of_its_class() -> None:
    loss = import_module("centre_loss").CentreMemory(3, 2, momentum=0.5, temperature=0.5)
    first = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    loss(first, torch.tensor([0, 0, 1]))
    root = 2**-0.5
    torch.testing.assert_close(loss.centres, torch.tensor([[root, root], [1.0, 0.0], [0.0, 0.0]]))
    assert loss.known.tolist() == [True, True, False]
    value = loss(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    moved = torch.nn.functional.normalize(torch.tensor([root / 2, root / 2 + 0.5]), dim=0)
    torch.testing.assert_close(loss.centres[0], moved)
    torch.testing.assert_close(value, -(torch.stack([moved[1], torch.tensor(0.0)]) / 0.5).log_softmax(0)[0])
    assert loss.eval()(torch.zeros(1, 2), torch.tensor([2])) == 0, "a class without a centre"


def test_a_trainer_as_it_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where Lightning writes
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    found = import_module("plain").train(devices=1, steps=4)
    assert 0 < found["recall@1"] <= 1
    assert found["nmi"] > 0


@pytest.mark.slow
def test_a_trainer_as_it_comes_on_two_processes(work: Path) -> None:
    there = os.environ | {"LIFTED_CACHE_DIR": str(work / "cache")}
    command = [sys.executable, "plain.py", "--devices=2", "--steps=4"]
    done = subprocess.run(command, cwd=work, env=there, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'recall@1'") == 2, "each process has the result"
    assert "images only" not in done.stderr, "each image is evaluated"


@pytest.mark.parametrize(("name", "most"), [("plain.py", 40), ("two_views.py", 40), ("paper/README.md", 10)])
def test_the_examples_are_short(name: str, most: int) -> None:
    assert len((OWN / name).read_text().splitlines()) <= most


def test_the_supervised_contrastive_loss_is_the_paper_s() -> None:
    from pytorch_metric_learning.losses import SupConLoss

    embeddings, labels = torch.randn(12, 5), torch.arange(12) % 4
    ours = import_module("two_views").SupervisedContrastiveLoss(0.2)(embeddings, labels)
    torch.testing.assert_close(ours, SupConLoss(temperature=0.2)(embeddings, labels))


def test_the_shuffled_images_come_once_a_pass() -> None:
    labels = np.array([0, 0, 0, -1, 1, 1, 1, 2, 2, 2, 3])
    made = import_module("my_sampler").ShuffledImages(least_images=2).bind(labels, batch_size=3, batches_per_epoch=2)
    passes = np.stack([made.global_batch(*divmod(number, 2)) for number in range(6)]).reshape(2, 9)
    assert [sorted(rows) for rows in passes.tolist()] == [[0, 1, 2, 4, 5, 6, 7, 8, 9]] * 2
    assert (passes[0] != passes[1]).any()


def test_the_hubness_is_its_definition(tmp_path: Path) -> None:
    _, evaluation = evaluated(tmp_path, clusters())
    found = import_module("my_metric").HubnessRate(neighbours=5, times=1.5).compute(evaluation)
    counts = [0] * len(evaluation)
    for row in evaluation.ranking.nearest.tolist():  # of eight
        for item in row[:5]:
            counts[item] += 1
    assert found["hubs@5"] == pytest.approx(sum(n > 1.5 * 5 for n in counts) / 60)
    assert found["never_found@5"] == pytest.approx(counts.count(0) / 60)
    assert found["hub_skewness@5"] == pytest.approx(scipy.stats.skew(counts))


def test_slow_batch_normalisation_has_a_group_of_its_own() -> None:
    network = lifted_lightning.ConvNet(8, width=2)
    made = import_module("my_groups").SlowBatchNorm(
        network, lifted_lightning.TripletLoss(), lifted_lightning.CropMirror()
    )
    groups = {group["name"]: group for group in made.configure_optimizers().param_groups}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "trunk": (1e-3, 0.01), "head": (1e-3, 0.01), "batchnorm": (pytest.approx(1e-4), 0.0),
    }  # fmt: skip
    assert len(groups["batchnorm"]["params"]) == 2 * len(batchnorms(network))
    assert sum(len(group["params"]) for group in groups.values()) == len(list(network.parameters()))


def test_the_margin_loss_is_its_formula() -> None:
    embeddings, labels = torch.randn(9, 4, dtype=torch.float64), torch.arange(9) % 3
    terms = []
    for i in range(9):
        for j in range(i):
            distance = float((embeddings[i] - embeddings[j]).norm())
            sign = 1 if labels[i] == labels[j] else -1
            terms.append(max(0.0, 0.2 + sign * (distance - 2.0)))
    expected = sum(terms) / sum(term > 0 for term in terms)
    loss = import_module("my_loss").MarginLoss(margin=0.2, boundary=2.0).double()
    assert loss(embeddings, labels).item() == pytest.approx(expected)
