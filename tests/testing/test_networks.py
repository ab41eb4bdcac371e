"""The contract of networks: each planted fault is found by its question, and ours and sound ones have none."""

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lifted_lightning.testing import check_network
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork

OWN = Path(__file__).parents[2] / "experiments" / "own"


class Sound(nn.Module):
    """What the faulty ones differ from by one thing each."""

    def __init__(self, embedding_size: int = 4) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.trunk = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(24, embedding_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images))


class WrongSize(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.embedding_size = 5


class ColumnOfOne(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


class Centred(Sound):
    def forward(self, images: Tensor) -> Tensor:
        embeddings = super().forward(images)
        return embeddings - embeddings.mean(0)


class BatchStatistics(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.BatchNorm1d(24, track_running_stats=False), self.head)


class AlwaysDropping(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.dropout(super().forward(images))


class Constant(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * 0)


class Viewing(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.view(-1).view(images.shape))


class SingleOnly(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) @ torch.eye(4)


class Overflowing(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.trunk(images) * 1e6) / 1e6


class Unused(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(4, 10)


class RootOfZero(Sound):
    def forward(self, images: Tensor) -> Tensor:
        return self.head((0 * self.trunk(images)).sqrt()) + super().forward(images)


class Remembering(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(4)

    def forward(self, images: Tensor) -> Tensor:
        embeddings = super().forward(images)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * embeddings.detach().mean(0)
        return embeddings - self.mean.to(embeddings)


class NotOfUnitLength(Sound):
    normalize = True


SHAPES = "gives finite embeddings (B, embedding_size), others of other images"
ROWS = "in evaluation a row is the same whatever else is in the batch"
TYPES = "takes channels-last images, float64, and autocast to bfloat16 and float16"
GRADIENT = "all that learns has a finite gradient"
FAULTS = {
    WrongSize: SHAPES, ColumnOfOne: ROWS, NotOfUnitLength: SHAPES, Constant: SHAPES, Centred: ROWS,
    BatchStatistics: ROWS, AlwaysDropping: ROWS, Viewing: TYPES, SingleOnly: TYPES, Overflowing: TYPES,
    Unused: GRADIENT, RootOfZero: GRADIENT, Remembering: "is the same after saving and loading in mid-training",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(fault):
    assert FAULTS[fault] in [finding.question for finding in check_network(fault(), size=32).failed]


SOUND = {
    "sound": Sound,
    "ConvNet": lambda: ConvNet(width=4),
    "ConvNet, normalised, dropout": lambda: ConvNet(width=4, normalize=True, length=3.0, dropout=0.2, channels=3),
    "squeezenet": lambda: EmbeddingNetwork("squeezenet1_1", pretrained=False),
    "resnet18": lambda: EmbeddingNetwork("resnet18", pretrained=False, freeze_batchnorm=True, hidden=16),
    "ViT": lambda: EmbeddingNetwork("timm:vit_tiny_patch16_224", pretrained=False, layer_norm=True),
    "mobilenet": lambda: EmbeddingNetwork("mobilenet_v3_small", pretrained=False, dropout=0.3),
    "own": lambda: import_module("my_network").TwoLayers(),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_pass_and_stay_as_they_are(name, monkeypatch):
    monkeypatch.syspath_prepend(str(OWN))
    network = SOUND[name]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    findings = check_network(network, size=64)
    assert not findings.failed
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert network.training
    sys.modules.pop("my_network", None)
