"""The recipe for photographs: from a folder of a few to an index that is searched, as the README's commands do it."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import models

import lifted_lightning
from lifted_lightning.cli import main
from lifted_lightning.errors import UserError
from lifted_lightning.training.networks import EmbeddingNetwork
from tests.helpers.images import draw_images

RECIPE = Path(__file__).parents[2] / "experiments" / "photographs.yaml"


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs of eight kinds and one with a trunk's weights; no network is needed."""
    torch.manual_seed(0)
    draw_images(tmp_path / "my_images", classes=8)
    (tmp_path / "weights").mkdir()
    torch.save(models.squeezenet1_1(weights=None).state_dict(), tmp_path / "weights" / "squeezenet1_1.pth")
    monkeypatch.setenv("LIFTED_WEIGHTS_DIR", str(tmp_path / "weights"))
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_from_a_folder_to_an_index(work: Path) -> None:
    short = ["--trainer.max_steps=4", "--data.batches_per_epoch=2", "--tsne.every_n=0", "--evaluation.clustering=none"]
    given = ["--data.dataset.path=my_images", "--model.loss=TripletLoss", "--name=first", *short]
    with pytest.warns(UserWarning, match="a batch has 12 images of 3 classes"):
        assert main(["fit", f"--config={RECIPE}", *given]) == 0
    run = work / "runs" / "photographs" / "first"
    assert json.loads((run / "result.json").read_text())["loss"] == "TripletLoss"
    assert main(["embed", "my_images", f"--ckpt={run}/checkpoints/best.ckpt", "--out=index.npz"]) == 0
    with np.load(work / "index.npz") as index:
        np.testing.assert_allclose(np.linalg.norm(index["embeddings"], axis=1), np.ones(40), rtol=1e-5)
    assert main(["search", "my_images/class 3/0.png", "--index=index.npz", "--k=4"]) == 0


def test_a_small_embedding_begins_with_the_axes_of_the_first_images(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = EmbeddingNetwork.begin_head
    monkeypatch.setattr(EmbeddingNetwork, "begin_head", lambda *given: begun.append(begin(*given)))
    brief = ["--data.dataset.path=my_images", "--trainer.max_steps=1", "--data.batches_per_epoch=1", "--test=false"]
    small = [
        "--model.network.embedding_size=6",
        "--model.optimizer.lr=0",
        "--tsne.every_n=0",
        "--gallery.every_n=0",
        "--confusions.every_n=0",
    ]
    with pytest.warns(UserWarning, match="nothing is learnt"):
        assert main(["fit", f"--config={RECIPE}", *brief, *small, "--name=first"]) == 0
    run = work / "runs" / "photographs" / "first"
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    rows = weights["network.head.weight"]
    torch.testing.assert_close(rows @ rows.T, torch.eye(6))
    model = lifted_lightning.load(run / "checkpoints" / "last.ckpt", "cpu")
    kept = np.linalg.norm(features := trunk_features(model), axis=1), np.linalg.norm(features @ rows.numpy().T, axis=1)
    assert (kept[1] / kept[0]).min() > 0.95, "random axes would keep 0.1"
    going_on = [f"--config={run / 'config.yaml'}", "--ckpt_path=last", "--trainer.max_steps=2", "--name=more"]
    with pytest.warns(UserWarning, match="nothing is learnt"):
        assert main(["fit", *going_on]) == 0
    assert len(begun) == 1, "not when a run goes on"


def trunk_features(model: lifted_lightning.TrainedModel) -> np.ndarray:
    """(40, 512) of the photographs."""
    model.module.network.head = torch.nn.Identity()
    model.module.network.normalize = False
    model.embedding_size = 512
    return model.embed(sorted(Path("my_images").rglob("*.*")))


def test_without_weights_or_a_network_both_ways_on_are_said(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **options: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.delenv("LIFTED_WEIGHTS_DIR")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(
        UserError, match=r"with a network try again, without one .*weights_file=FILE.*LIFTED_WEIGHTS_DIR"
    ):
        EmbeddingNetwork("squeezenet1_1")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("loss", ["LiftedStructureLoss", "ContrastiveLoss", "TripletLoss"])
def test_a_loss_by_name_alone_climbs_from_the_frozen_trunk(loss: str, tmp_path: Path) -> None:
    """On the crops of Cars-196, whose validation classes the frozen trunk retrieves at 0.44."""
    if not {"LIFTED_DATA_DIR", "LIFTED_WEIGHTS_DIR"} <= os.environ.keys():
        pytest.skip("no real data: LIFTED_DATA_DIR and LIFTED_WEIGHTS_DIR are not set")
    brief = ["--trainer.max_steps=50", "--data.dataset=Cars196", "--test=false", f"--runs_dir={tmp_path}", "--name=run"]
    assert main(["fit", f"--config={RECIPE}", f"--model.loss={loss}", *brief]) == 0
    result = json.loads((tmp_path / "photographs" / "run" / "result.json").read_text())
    assert result["validation"]["recall@1"] > 0.5
