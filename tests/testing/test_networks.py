"""The contract of networks: each planted fault is found by its question, and ours and sound ones have none."""

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from experiments.own.my_network import TwoLayers
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.testing import check_augment, check_network
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork


class Sound(nn.Module):
    """What the faulty ones differ from by one thing each."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding_size = 4
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


embed = Sound.forward


def faulty(forward: Callable[[nn.Module, Tensor], Tensor] = embed, **attributes: object) -> nn.Module:
    """A sound network but for what it makes of images, or for an attribute."""
    network = type("Faulty", (Sound,), {"forward": forward})()
    for name, value in attributes.items():
        setattr(network, name, value)
    return network


class Remembering(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def forward(self, images: Tensor) -> Tensor:
        embeddings = super().forward(images)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * embeddings.detach().mean(0)
        return embeddings - self.mean.to(embeddings)


SHAPES = "gives finite embeddings (B, embedding_size), others of other images"
ROWS = "in evaluation a row is the same whatever else is in the batch"
TYPES = "takes channels-last images, float64, and autocast to bfloat16 and float16"
GRADIENT = "all that learns has a finite gradient"
REMEMBERS = "is the same after saving and loading in mid-training"
FAULTS = {
    "another size": (faulty(embedding_size=5), SHAPES),
    "not of unit length": (faulty(normalize=True), SHAPES),
    "all are one": (faulty(lambda self, x: embed(self, x * 0)), SHAPES),
    "one loses its dimension": (faulty(lambda self, x: embed(self, x).squeeze()), ROWS),
    "centred": (faulty(lambda self, x: embed(self, x) - embed(self, x).mean(0)), ROWS),
    "batch statistics": (
        faulty(head=nn.Sequential(nn.BatchNorm1d(24, track_running_stats=False), nn.Linear(24, 4))), ROWS
    ),
    "drops always": (faulty(lambda self, x: nn.functional.dropout(embed(self, x))), ROWS),
    "a view": (faulty(lambda self, x: embed(self, x.view(-1).view(x.shape))), TYPES),
    "float32 only": (faulty(lambda self, x: embed(self, x) @ torch.eye(4)), TYPES),
    "overflows": (faulty(lambda self, x: self.head(self.trunk(x) * 1e6) / 1e6), TYPES),
    "a layer is not used": (faulty(classifier=nn.Linear(4, 10)), GRADIENT),
    "root of zero": (faulty(lambda self, x: self.head((0 * self.trunk(x)).sqrt()) + embed(self, x)), GRADIENT),
    "remembers": (Remembering(), REMEMBERS),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name):
    network, question = FAULTS[name]
    assert question in [finding.question for finding in check_network(network, size=32).failed]


SOUND = {
    "sound": Sound,
    "ConvNet": lambda: ConvNet(width=4),
    "ConvNet, normalised, dropout": lambda: ConvNet(width=4, normalize=True, length=3.0, dropout=0.2, channels=3),
    "squeezenet": lambda: EmbeddingNetwork("squeezenet1_1", pretrained=False),
    "resnet18": lambda: EmbeddingNetwork("resnet18", pretrained=False, freeze_batchnorm=True, hidden=16),
    "ViT": lambda: EmbeddingNetwork("timm:vit_tiny_patch16_224", pretrained=False, layer_norm=True),
    "mobilenet": lambda: EmbeddingNetwork("mobilenet_v3_small", pretrained=False, dropout=0.3),
    "own": TwoLayers,
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_pass_and_stay_as_they_are(name):
    network = SOUND[name]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    findings = check_network(network, size=64)
    assert not findings.failed
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training


@pytest.mark.parametrize("check", [check_network, check_augment], ids=["network", "augmentation"])
def test_what_cannot_be_copied_is_told_by_name(check):
    part = Sound() if check is check_network else CropMirror(24)
    part.lock = threading.Lock()
    with pytest.raises(UserError, match=f"^{type(part).__name__}: cannot be copied .*lock"):
        check(part)
