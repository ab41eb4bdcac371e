"""LoRA: matrices beside a frozen trunk's layers, and the file of these alone, from which a model is the same."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torchvision import models

import lifted_lightning
from lifted_lightning.cli import main
from lifted_lightning.errors import UserError
from lifted_lightning.training.lora import add_lora
from lifted_lightning.training.networks import EmbeddingNetwork
from tests.helpers.images import draw_images
from tests.training.test_going_on import BASE
from tests.training.test_resume import load


def test_a_layer_adds_the_product_of_two_matrices() -> None:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    rows = torch.randn(7, 6)
    expected = trunk(rows)
    add_lora(trunk, 2)
    assert torch.equal(trunk(rows), expected), "the second matrix is zero"
    learns = {name: p for name, p in trunk.named_parameters() if p.requires_grad}
    assert {tuple(p.shape) for p in learns.values()} == {(2, 6), (5, 2), (2, 5), (4, 2)}
    assert sum(p.numel() for p in learns.values()) == 2 * (6 + 5 + 5 + 4)
    weights = []
    for place in "02":
        a, b = (learns[f"{place}.lora_{m}.default.weight"] for m in "AB")
        nn.init.normal_(b)
        weights.append(before[f"{place}.weight"] + b @ a)
    hidden = torch.tanh(rows @ weights[0].T + before["0.bias"])
    torch.testing.assert_close(trunk(rows), hidden @ weights[1].T + before["2.bias"])


def test_the_digest_is_of_the_weights() -> None:
    first, again, other = (nn.Sequential(nn.Linear(3, 3)) for _ in range(3))
    again.load_state_dict(first.state_dict())
    with torch.no_grad():
        again[0].bias[2] += 0.0
        other.load_state_dict(first.state_dict())
        other[0].bias[2] += 1e-6
    digests = [add_lora(trunk, rank) for trunk, rank in ((first, 1), (again, 2), (other, 1))]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("name", "reason"), [("resnet18", "has BatchNorm2d"), ("vit_b_16", "has MultiheadAttention")])
def test_trunks_that_it_is_not_for(name: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"lora_rank: .* {reason}; take a transformer of timm"):
        add_lora(models.get_model(name, weights=None), 4)


def test_random_weights_have_no_adapter() -> None:
    assert EmbeddingNetwork("timm:test_vit", pretrained=False, lora_rank=2).trunk_digest is None


def test_a_run_and_its_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's checkpoint is whole; the adapter beside it gives the same embeddings with the trunk, and no other."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("LIFTED_WEIGHTS_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("LIFTED_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    weights = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(weights, "trunk.pth")
    given = ["EmbeddingNetwork", "trunk=timm:test_vit", "weights_file=trunk.pth", "lora_rank=2", "embedding_size=64"]
    network = ["--model.network=" + given[0], *(f"--model.network.{word}" for word in given[1:])]
    images = ["--data.size=48", "--data.channels=3", "--model.augment.size=32", "--data.batches_per_epoch=2"]
    head = ["--model.loss=pytorch_metric_learning.losses.ProxyAnchorLoss", "--trainer.max_steps=4", "--name=run"]
    assert main([*BASE, *network, *images, *head, "--model.optimizer.lr=1"]) == 0

    folder = Path("runs/e/run")
    state = load(folder, "last")["state_dict"]
    base = {k.removeprefix("network.trunk.").replace(".base_layer", ""): v for k, v in state.items() if "lora" not in k}
    fresh = EmbeddingNetwork("timm:test_vit", weights_file="trunk.pth")
    fresh.set_image_size((32, 32))  # its position embedding is resampled
    assert all(torch.equal(base[name], value) for name, value in fresh.trunk.state_dict().items()), "whole, as it was"
    assert any(value.any() for name, value in state.items() if "lora_B" in name), "else this tests nothing"
    paths = draw_images(tmp_path / "images", 2, 2)
    for name in ("last", "best"):
        whole, small = (folder / "checkpoints" / f"{name}.{kind}" for kind in ("ckpt", "adapter"))
        kept = torch.load(small, weights_only=True)["state_dict"]
        assert {name.split(".")[0] for name in kept} == {"network", "loss"}
        assert all("lora" in name for name in kept if name.startswith("network.trunk"))
        expected = lifted_lightning.load(whole, "cpu").embed(paths)
        np.testing.assert_array_equal(lifted_lightning.load(small, "cpu").embed(paths), expected)

    tuned = EmbeddingNetwork("timm:test_vit", weights_file=str(folder / "checkpoints" / "best.ckpt"), embedding_size=64)
    seen, network = torch.randn(3, 3, 32, 32), lifted_lightning.load(whole.with_name("best.ckpt"), "cpu").module.network
    torch.testing.assert_close(
        tuned.eval()(seen), network(seen), msg="to fine-tune from, the matrices are in the weights"
    )

    test = ["test", f"--config={folder / 'config.yaml'}"]
    assert main([*test, f"--ckpt_path={small}"]) == 2
    assert "best.adapter: without the trunk it is for lifted embed" in capsys.readouterr().err

    weights["norm.bias"][0] += 1
    torch.save(weights, "trunk.pth")
    with pytest.raises(UserError, match=r"best\.adapter: was learnt on another trunk than is found here"):
        lifted_lightning.load(small, "cpu")
    Path("trunk.pth").unlink()
    Path("none").mkdir()
    weights["norm.bias"][0] -= 1
    torch.save(weights, "none/test_vit-own.pth")
    np.testing.assert_array_equal(lifted_lightning.load(small, "cpu").embed(paths), expected)
