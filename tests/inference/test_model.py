"""A model in use gives the embeddings that its module's own validation gives, of files and of images."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import lifted_lightning
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.datasets import ImageFolder
from lifted_lightning.data.images import normalized, to_pixels
from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import ConvNet
from tests.helpers.checkpoints import CROP, save_checkpoint
from tests.helpers.images import draw_images
from tests.helpers.tiny import silent_trainer


def validation_embeddings(checkpoint: Path, folder: Path, cache: Path, **data: Any) -> np.ndarray:
    """(N, D): what Lightning's loop gets of the last half of the classes, from the module with these weights."""
    module = EmbeddingModule(ConvNet(5, channels=3, width=2), ContrastiveLoss(), CropMirror(size=20))
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    module.load_state_dict({name: value for name, value in saved.items() if name != "loss.proxies"})
    own = {"size": 24, "eval_batch_size": 3, "validation_share": 0, "cache_dir": str(cache)}
    images = RetrievalDataModule(ImageFolder(str(folder)), PositivePairs(), **own, **data)
    batches = silent_trainer().predict(module, images)
    assert batches is not None
    return torch.cat([batch["embeddings"] for batch in batches]).numpy()


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_equals_the_modules_own_evaluation(tmp_path: Path, resize: str) -> None:
    paths = draw_images(tmp_path / "images")
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", resize=resize)
    expected = validation_embeddings(checkpoint, tmp_path / "images", tmp_path / "cache", resize=resize)
    model = lifted_lightning.load(checkpoint, "cpu")
    embeddings = model.embed(paths)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (20, 5)
    np.testing.assert_allclose(embeddings[10:], expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(embeddings, axis=0).min() > 1, "they are not all alike"


def test_paths_images_and_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifted_lightning.inference.model.BATCH", 3)
    paths = draw_images(tmp_path / "images")
    model = lifted_lightning.load(str(save_checkpoint(tmp_path / "best.ckpt")), "cpu")
    expected = model.embed(paths)
    opened = [Image.open(path) for path in paths]
    np.testing.assert_allclose(model.embed(opened), expected, rtol=1e-5, atol=1e-5)
    flat = np.asarray(Image.open(paths[0]))
    for one in (Path(paths[0]), paths[0], Image.open(paths[0]), flat, flat[None]):
        np.testing.assert_allclose(model.embed(one), expected[:1], rtol=1e-5, atol=1e-5)
    grey = flat[:, :, 0]
    np.testing.assert_allclose(model.embed(grey), model.embed(grey[:, :, None]))
    assert model.embed([]).shape == (0, 5)


def test_what_it_says_of_itself_and_of_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", distance="cosine", resize="pad")
    model = lifted_lightning.load(checkpoint, "cpu")
    (tmp_path / "broken.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"broken\.jpg: is empty, no image"):
        model.embed([*draw_images(tmp_path / "images"), str(tmp_path / "broken.jpg")])
    assert (model.size, model.resize, model.channels, model.distance) == (24, "pad", 3, "cosine")
    assert (model.embedding_size, model.device.type, model.path) == (5, "cpu", checkpoint)
    assert not model.module.training


def test_images_are_resized_as_in_training(tmp_path: Path) -> None:
    (path, *_) = draw_images(tmp_path / "images", 1, 1)
    for settings, how in (({}, "bilinear"), ({"interpolation": "bicubic"}, "bicubic")):  # older runs lack it
        model = lifted_lightning.load(save_checkpoint(tmp_path / "best.ckpt", **settings), "cpu")
        pixels = model.pixels(path)
        assert np.array_equal(pixels, to_pixels(normalized(Image.open(path), 3), 24, "squash", how))


def test_a_transformer_is_of_the_size_that_it_was_trained_at(tmp_path: Path) -> None:
    (path, *_) = draw_images(tmp_path / "images", 1, 1)
    settings = {
        "trunk": "timm:test_vit",
        "pretrained": True,
        "embedding_size": 4,
        "pooling": {"class_path": "lifted_lightning.training.pooling.GeM"},
    }
    network = {"class_path": "lifted_lightning.training.networks.EmbeddingNetwork", "init_args": settings}
    for augment, size in ((CROP_ALL, 48), ({**CROP, "init_args": {"size": [32, 64]}}, 64)):
        checkpoint = save_checkpoint(tmp_path / "best.ckpt", {"network": network, "augment": augment}, size=size)
        weights = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert weights["network.trunk.pos_embed"].shape[1] in (3 * 3 + 1, 2 * 4 + 1)
        assert lifted_lightning.load(checkpoint, "cpu").embed(path).shape == (1, 4)


def test_pretrained_weights_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"trunk": "squeezenet1_1", "pretrained": True, "embedding_size": 4, "weights_file": "/gone.pth"}
    trained = {"class_path": "lifted_lightning.training.networks.EmbeddingNetwork", "init_args": settings}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    checkpoint = save_checkpoint(tmp_path / "best.ckpt", {"network": trained, "augment": CROP_ALL}, size=40)
    model = lifted_lightning.load(checkpoint, "cpu")
    assert model.embedding_size == 4
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert torch.equal(model.module.state_dict()["network.head.weight"], saved["network.head.weight"])
    assert model.module.augment.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])


CROP_ALL = {"class_path": "lifted_lightning.data.augment.CropMirror", "init_args": {}}


class Shifted(ConvNet):
    """A network that expects statistics of its own."""

    mean, std = (0.1, 0.2, 0.3), (0.5, 0.4, 0.3)


def test_the_networks_own_statistics(tmp_path: Path) -> None:
    network = {"class_path": "tests.inference.test_model.Shifted", "init_args": {"channels": 3}}
    module = lifted_lightning.load(save_checkpoint(tmp_path / "best.ckpt", {"network": network}), "cpu").module
    assert module.augment.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert module.augment.std.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])


class Doubled(EmbeddingModule):
    """A module of one's own, whose evaluation is not the usual one, with a parameter and a setting of its own."""

    def __init__(self, *args: Any, factor: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.factor = factor
        self.offset = torch.nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * super().forward(images) + self.offset


def test_a_module_of_ones_own_evaluates_as_it_says(tmp_path: Path) -> None:
    (path, *_) = draw_images(tmp_path / "images", 1, 1)
    usual = lifted_lightning.load(save_checkpoint(tmp_path / "usual.ckpt"), "cpu").embed(path)
    own = save_checkpoint(tmp_path / "own.ckpt", {"factor": 3.0}, model_class="tests.inference.test_model.Doubled")
    np.testing.assert_allclose(lifted_lightning.load(own, "cpu").embed(path), 3 * usual + 1, rtol=1e-5)


def test_checkpoints_that_cannot_be_used(tmp_path: Path) -> None:
    checkpoint = save_checkpoint(tmp_path / "best.ckpt")
    config = torch.load(checkpoint, weights_only=True)["lifted_config"]
    with pytest.raises(UserError, match=r"gone\.ckpt: no such checkpoint"):
        lifted_lightning.load(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match="is no checkpoint, or is damaged"):
        lifted_lightning.load(__file__)
    for device in ("cuda:99", "gpu"):
        with pytest.raises(UserError, match=f"device {device}: cannot be used here"):
            lifted_lightning.load(checkpoint, device)
    wrong = {
        config.replace("ConvNet", "Nothing"): "its network cannot be made here .*Nothing.* go to the folder",
        config.replace("width: 2", "width: 3"): "its weights do not fit its network",
        None: "is not a checkpoint of lifted fit",
    }
    for foreign in ("os.system", "pathlib.Path", "torch.nn.Linear", "nope.Nope"):
        wrong[f"{config}\nmodel_class: {foreign}\n"] = rf"its network cannot be made here \(.*{foreign[:4]}"
    for lifted_config, message in wrong.items():
        content = torch.load(checkpoint, weights_only=True) | {"lifted_config": lifted_config}
        torch.save({name: value for name, value in content.items() if value is not None}, checkpoint)
        with pytest.raises(UserError, match=rf"best\.ckpt: {message}"):
            lifted_lightning.load(checkpoint, "cpu")


@pytest.mark.gpu
def test_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    checkpoint, paths = save_checkpoint(tmp_path / "best.ckpt"), draw_images(tmp_path / "images")
    expected = lifted_lightning.load(checkpoint, "cpu").embed(paths)
    for device in ("auto", "cuda", "cuda:0"):
        model = lifted_lightning.load(checkpoint, device)
        assert model.device.type == "cuda"
        # Convolutions there have ten bits of mantissa (TF32).
        np.testing.assert_allclose(model.embed(paths), expected, atol=1e-3 * np.abs(expected).max())


LEAN = """
import sys
import lifted_lightning
assert not {{"torch", "numpy"}} & sys.modules.keys()
model = lifted_lightning.load({checkpoint!r}, "cpu")
vectors = model.embed([{image!r}])
assert vectors.shape == (1, 5)
from lifted_lightning.metrics import nearest
import lifted_lightning.commands.search
heavy = {{"pytorch_lightning", "torchmetrics", "torchvision", "sklearn", "scipy", "matplotlib", "wandb"}}
print(sorted(heavy & sys.modules.keys()))
"""


@pytest.mark.slow
def test_using_a_model_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    (image,) = draw_images(tmp_path / "images", 1, 1)
    code = LEAN.format(checkpoint=str(save_checkpoint(tmp_path / "best.ckpt")), image=image)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
