"""Numbers out of their range are refused by the constructor, from Python as from the command line."""

from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
import torch
from torch import nn

from lifted_lightning.callbacks.checkpoints import LastCheckpoint
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork
from lifted_lightning.training.schedules import WarmupCosine


def module(**settings: Any) -> EmbeddingModule:
    return EmbeddingModule(nn.Identity(), LiftedStructureLoss(), CropMirror(), **settings)


def normalized(length: float) -> ConvNet:
    return ConvNet(normalize=True, length=length)


def small(**settings: Any) -> EmbeddingNetwork:
    return EmbeddingNetwork("squeezenet1_1", pretrained=False, **settings)


def schedule(**settings: Any) -> WarmupCosine:
    return WarmupCosine(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), **{"steps": 10, **settings})


TABLE: list[
    tuple[Callable[..., Any], str, tuple[float, ...], tuple[float, ...]]
] = [  # what, its argument, taken, refused
    *(
        (loss, "margin", (0, 0.5, 3), (-1, -0.001, nan, inf))
        for loss in (ContrastiveLoss, TripletLoss, LiftedStructureLoss)
    ),
    (module, "head_lr_factor", (0, 10), (-1, nan, inf)),
    (module, "loss_lr_factor", (0, 10), (-1, nan, inf)),
    (module, "layer_decay", (1e-9, 1), (-1, 0, 1.1, nan, inf)),
    (module, "freeze_trunk_steps", (0, 7), (-1,)),
    (module, "micro_batch", (1,), (0, -1)),
    (ConvNet, "embedding_size", (1,), (0, -3)),
    (ConvNet, "channels", (1,), (0, -1)),
    (ConvNet, "width", (1,), (0, -1)),
    (ConvNet, "dropout", (0, 0.99), (-0.1, 1, nan)),
    (ConvNet, "length", (1,), (2, nan)),  # of what is not normalised
    (normalized, "length", (0.5, 2), (0, -1, nan, inf)),
    (small, "embedding_size", (1,), (0,)),
    (small, "dropout", (0.4,), (1, nan)),
    (schedule, "steps", (1,), (0, -1)),
    (schedule, "warmup", (0, 0.5), (-0.1, 1, nan, inf)),
    (LastCheckpoint, "every_n_steps", (1,), (0, -1)),
]


@pytest.mark.parametrize(
    ("make", "argument", "taken", "refused"), TABLE, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_number_out_of_its_range(
    make: Callable[..., Any], argument: str, taken: tuple[float, ...], refused: tuple[float, ...]
) -> None:
    for value in taken:
        make(**{argument: value})
    for value in refused:
        with pytest.raises(UserError, match=rf"{argument}[= ]{value}\b") as caught:
            make(**{argument: value})
        assert "give " in str(caught.value) or "must" in str(caught.value)
        assert "\n" not in str(caught.value)
