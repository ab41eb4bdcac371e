"""Choosing a class over a configuration: it starts from its own defaults."""

from pathlib import Path
from typing import Any

from lifted_lightning.commands.fit import parse
from lifted_lightning.losses import LiftedStructureLoss

OMNIGLOT = str(Path(__file__).parents[2] / "experiments" / "omniglot" / "lifted.yaml")


def model(*options: str) -> dict[str, Any]:
    """The model's configuration with these options over Omniglot's, whose loss has a tuned margin."""
    config: dict[str, Any] = parse("fit", ["--config", OMNIGLOT, *options])["model"]
    return config


def test_another_loss_has_its_own_margin() -> None:
    loss = model("--model.loss=TripletLoss")["loss"]
    assert loss["init_args"]["margin"] == 0.2


def test_settings_after_the_class_are_kept() -> None:
    loss = model("--model.loss=TripletLoss", "--model.loss.margin=0.7")["loss"]
    assert loss["init_args"]["margin"] == 0.7


def test_the_same_class_keeps_its_settings() -> None:
    margin = model()["loss"]["init_args"]["margin"]
    assert margin != LiftedStructureLoss().margin
    chosen = model("--model.loss=LiftedStructureLoss", "--model.loss.smooth=false")["loss"]
    assert chosen["init_args"] == {"margin": margin, "smooth": False}


def test_another_optimiser_has_its_own_weight_decay() -> None:
    optimizer = model("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")["optimizer"]
    assert optimizer["init_args"]["weight_decay"] == 0
    assert optimizer["init_args"]["lr"] == 0.1
