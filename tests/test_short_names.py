"""Choosing a class over a configuration: it starts from its own defaults."""

import sys
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.lightning_cli import LiftedCLI
from lifted_lightning.module import EmbeddingModule
from lifted_lightning.short_names import set_up_parsing

OMNIGLOT = str(Path(__file__).parents[1] / "experiments" / "omniglot" / "lifted.yaml")


class ParsedCLI(LiftedCLI):
    """Parses, and stops there."""

    def instantiate_classes(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def model(monkeypatch: pytest.MonkeyPatch, *options: str) -> dict[str, Any]:
    """The model's configuration with these options over Omniglot's, whose loss has margin 1."""
    set_up_parsing()
    monkeypatch.setattr(sys, "argv", ["lifted", "fit", "--config", OMNIGLOT, *options])
    config: dict[str, Any] = ParsedCLI("fit", EmbeddingModule).config["fit"].as_dict()
    return config["model"]


def test_another_loss_has_its_own_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = model(monkeypatch, "--model.loss=TripletLoss")["loss"]
    assert loss["init_args"]["margin"] == 0.2


def test_settings_after_the_class_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = model(monkeypatch, "--model.loss=TripletLoss", "--model.loss.margin=0.7")["loss"]
    assert loss["init_args"]["margin"] == 0.7


def test_the_same_class_keeps_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = model(monkeypatch, "--model.loss=LiftedStructureLoss", "--model.loss.smooth=false")["loss"]
    assert chosen["init_args"] == {"margin": 1.0, "smooth": False}


def test_another_optimiser_has_its_own_weight_decay(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = model(monkeypatch, "--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")[
        "optimizer"
    ]
    assert optimizer["init_args"]["weight_decay"] == 0
    assert optimizer["init_args"]["lr"] == 0.1
