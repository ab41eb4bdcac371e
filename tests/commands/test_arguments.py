"""What a command line and its configurations come to: which of two settings wins, and what is refused."""

from pathlib import Path
from typing import Any

import yaml
from torch import nn

from lifted_lightning.commands.fit import parse
from lifted_lightning.data.augment import Augmentation
from lifted_lightning.losses import LiftedStructureLoss
from lifted_lightning.training.module import EmbeddingModule

OMNIGLOT = str(Path(__file__).parents[2] / "experiments" / "omniglot" / "lifted.yaml")


def model(*options: str) -> dict[str, Any]:
    """The model's configuration with these options over Omniglot's, whose loss has a tuned margin."""
    config: dict[str, Any] = parse("fit", ["--config", OMNIGLOT, *options])["model"]
    return config


def test_another_class_has_its_own_settings_and_those_given_after_it() -> None:
    assert model("--model.loss=TripletLoss")["loss"]["init_args"]["margin"] == 0.1
    assert model("--model.loss=TripletLoss", "--model.loss.margin=0.7")["loss"]["init_args"]["margin"] == 0.7
    sgd = model("--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1")["optimizer"]["init_args"]
    assert (sgd["weight_decay"], sgd["lr"]) == (0, 0.1)


def test_the_same_class_keeps_its_settings() -> None:
    margin = model()["loss"]["init_args"]["margin"]
    assert margin != LiftedStructureLoss().margin
    chosen = model("--model.loss=LiftedStructureLoss", "--model.loss.smooth=false")["loss"]
    assert chosen["init_args"] == {"margin": margin, "smooth": False}


def test_a_run_s_configuration_from_before_a_setting_keeps_its_old_meaning(tmp_path: Path) -> None:
    network = {"class_path": "EmbeddingNetwork", "init_args": {"trunk": "squeezenet1_1", "pretrained": False}}
    by_hand = {"model": {"network": network}}
    old = {"seed_everything": 0, **by_hand, "ckpt_path": None}
    new = {**old, "model": {"network": {**network, "init_args": {**network["init_args"], "head": "orthonormal"}}}}
    heads = []
    for number, config in enumerate((by_hand, old, new)):
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(config))
        heads.append(model(f"--config={tmp_path / f'{number}.yaml'}")["network"]["init_args"]["head"])
    assert heads == ["orthonormal", "random", "orthonormal"]
    given = [f"--config={tmp_path / '1.yaml'}", "--model.network.head=orthonormal"]
    assert model(*given)["network"]["init_args"]["head"] == "orthonormal"
    assert "head" not in model(given[0], "--model.network=ConvNet")["network"]["init_args"]
    assert model(given[0])["network"]["init_args"]["pooling"] is None


def test_a_pooling_by_its_name_and_by_class_path() -> None:
    given = ["--model.network=EmbeddingNetwork", "--model.network.pooling=GeM", "--model.network.pooling.p=2"]
    chosen = model(*given)["network"]["init_args"]["pooling"]
    assert chosen == {"class_path": "lifted_lightning.training.pooling.GeM", "init_args": {"p": 2.0, "least": 1e-6}}
    own = model(given[0], "--model.network.pooling=tests.training.test_pooling.Kept")["network"]["init_args"]["pooling"]
    assert own["init_args"] == {"cells": 4}


def test_a_pooling_stays_when_a_run_s_configuration_is_given_again(tmp_path: Path) -> None:
    given = ["--model.network=EmbeddingNetwork", "--model.network.pooling=GeM", "--model.network.pooling.p=2"]
    chosen = model(*given)["network"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": {"network": chosen}, "ckpt_path": None}))
    assert model(f"--config={tmp_path / 'config.yaml'}")["network"] == chosen


def test_an_option_wins_over_configurations_and_a_later_one_over_those_before(tmp_path: Path) -> None:
    for size in (20, 30):
        (tmp_path / f"{size}.yaml").write_text(yaml.safe_dump({"data": {"size": size}}))
    given = ["--config", OMNIGLOT, "-c", str(tmp_path / "20.yaml"), f"--config={tmp_path / '30.yaml'}"]
    assert parse("fit", given)["data"]["size"] == 30
    options = ["--model.loss=TripletLoss", "--data.size=24"]
    before = parse("fit", [*options, "--config", OMNIGLOT])
    assert before == parse("fit", ["--config", OMNIGLOT, *options])
    assert before["data"]["size"] == 24
    assert before["model"]["loss"]["class_path"] == "lifted_lightning.TripletLoss"


def test_our_short_names_win_over_a_peers() -> None:
    import pytorch_metric_learning.losses as peer

    assert peer.ContrastiveLoss.__name__ == "ContrastiveLoss"
    assert model("--model.loss=ContrastiveLoss")["loss"]["class_path"] == "lifted_lightning.ContrastiveLoss"


class FewSettings(EmbeddingModule):
    """A module of one's own, which takes only some of the settings that ours has."""

    def __init__(self, network: nn.Module, loss: nn.Module, augment: Augmentation, seed: int = 0) -> None:
        super().__init__(network, loss, augment, seed=seed)


def test_the_configuration_of_a_module_with_fewer_settings_repeats_its_run(tmp_path: Path) -> None:
    config = {
        "model": {"network": {"class_path": "ConvNet"}, "loss": {"class_path": "TripletLoss"},
                  "augment": {"class_path": "CropMirror", "init_args": {"size": 28}}},
        "data": {"dataset": {"class_path": "Glyphs"}}, "model_class": f"{__name__}.FewSettings", "ckpt_path": None,
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert set(parse("fit", ["--config", str(tmp_path / "config.yaml")])["model"]) == {
        "network",
        "loss",
        "augment",
        "seed",
    }
