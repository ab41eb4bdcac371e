"""Trunks at the size of the images, the statistics and the interpolation that are theirs, and weights across sizes."""

import pytest
import torch
from torch import Tensor
from torchvision import models

from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss
from lifted_lightning.runs.checkpoint import SETTINGS_KEY
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import EmbeddingNetwork
from lifted_lightning.training.pooling import GeM

VIT = "timm:test_vit"  # of timm's smallest: patches of 16 pixels, images of 160


def network_of(trunk: str = VIT, **options: object) -> EmbeddingNetwork:
    return EmbeddingNetwork(trunk, **({"pretrained": False, "embedding_size": 4} | options)).eval()


def images(height: int = 96, width: int = 96) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def test_a_transformer_takes_images_of_the_augmentation_s_size():
    import timm

    torch.manual_seed(0)
    module = EmbeddingModule(network_of(), ContrastiveLoss(), CropMirror((96, 64)))
    torch.manual_seed(0)
    wanted = timm.create_model("test_vit", num_classes=0, img_size=(96, 64)).eval()
    assert module.network.trunk.pos_embed.shape == wanted.pos_embed.shape
    state = module.network.trunk.state_dict()
    wanted.load_state_dict(state)
    torch.testing.assert_close(module.network.trunk(images(96, 64)), wanted(images(96, 64)))
    before = network_of().trunk
    assert before.pos_embed.shape != wanted.pos_embed.shape


@pytest.mark.parametrize(
    ("size", "nearest"), [((112, 120), r"112 or \[112,128\]"), ((100, 100), "96 or 112"), ((9, 9), "16")]
)
def test_sizes_that_patches_do_not_divide_are_told_with_the_nearest(size, nearest):
    with pytest.raises(
        UserError, match=rf"patches of 16x16 .*{size[0]}x{size[1]}; give --model.augment.size={nearest}$"
    ):
        network_of().set_image_size(size)


def test_networks_of_convolutions_take_any_size():
    for trunk in ("timm:test_convnext", "resnet18"):
        network = network_of(trunk)
        network.set_image_size((70, 90))
        assert network(images(70, 90)).shape == (2, 4)


@pytest.mark.slow
def test_a_transformer_of_torchvision_takes_squares():
    network = network_of("vit_b_32")
    before = network.trunk.encoder.pos_embedding
    network.set_image_size((96, 96))
    assert network(images()).shape == (2, 4)
    assert network.trunk.encoder.pos_embedding.shape == (1, 10, 768)
    assert torch.equal(network.trunk.encoder.pos_embedding[:, 0], before[:, 0])
    with pytest.raises(UserError, match=r"vit_b_32: does not take images of 96x64 .*squares"):
        network.set_image_size((96, 64))


def checkpoint(network: EmbeddingNetwork, size: object, file: object) -> None:
    """What a run of this network on images of this size keeps, as far as weights go."""
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    settings = f"{{model: {{augment: {{init_args: {{size: {size}}}}}}}, data: {{size: 128}}}}"
    torch.save({"state_dict": state, SETTINGS_KEY: settings}, file)


def test_weights_of_a_run_are_taken_to_another_size(tmp_path):
    first = network_of(pooling=GeM(p=2.5))
    first.set_image_size((96, 96))
    checkpoint(first, 96, tmp_path / "first.ckpt")
    again, larger = (network_of(pooling=GeM(), weights_file=tmp_path / "first.ckpt") for _ in range(2))
    assert torch.equal(again(images()), first(images()))
    assert again.pooling is not None
    assert again.pooling.p.item() == 2.5
    for network in (first, larger):
        network.set_image_size((128, 128))
    assert torch.equal(larger(images(128, 128)), first(images(128, 128)))
    untrained = larger.initial_trunk()
    assert untrained is not None
    assert torch.equal(untrained(images(128, 128)), first.features_of(images(128, 128)))


def test_statistics_are_the_trunk_s_own():
    half = (0.5, 0.5, 0.5)
    network = network_of("timm:tf_efficientnet_lite0")
    assert (network.mean, network.std, network.interpolation) == (half, half, None)
    sets = {name: models.get_model_weights(name) for name in models.list_models(module=models)}
    assert all(hasattr(weights, "DEFAULT") for weights in sets.values())


def test_a_head_with_layer_norm_and_a_hidden_layer():
    plain = network_of("squeezenet1_1", embedding_size=512, normalize=False, layer_norm=True)
    features = plain.trunk(images())
    wanted = torch.nn.functional.layer_norm(features, (512,))
    torch.testing.assert_close(plain(images()), wanted)  # the geometry of the normalised features
    deep = network_of("squeezenet1_1", embedding_size=3, layer_norm=True, hidden=20)
    assert [type(layer).__name__ for layer in deep.neck] == ["LayerNorm", "Linear", "GELU"]
    assert deep.features_of(images()).shape == (2, 20)
    torch.testing.assert_close(deep.head.weight @ deep.head.weight.T, torch.eye(3))
    deep.begin_head(deep.features_of(images()))
    groups = (
        EmbeddingModule(deep, ContrastiveLoss(), CropMirror(), head_lr_factor=10).configure_optimizers().param_groups
    )
    assert {id(p) for p in groups[1]["params"]} == {id(p) for part in (deep.neck, deep.head) for p in part.parameters()}
    with pytest.raises(UserError, match="hidden=0"):
        network_of("squeezenet1_1", hidden=0)
