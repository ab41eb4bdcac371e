"""Who learns and how fast: groups against timm's and against plain loops, and a frozen trunk, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from pytorch_lightning import Callback, Trainer
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision import models

from lifted_lightning.data.augment import CropMirror
from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss
from lifted_lightning.training.groups import layers, parameter_groups, table
from lifted_lightning.training.module import EmbeddingModule
from lifted_lightning.training.networks import ConvNet, EmbeddingNetwork, batchnorms
from lifted_lightning.training.pooling import Average
from tests.helpers.tiny import TinyNetwork
from tests.helpers.tiny_training import LOSSES, Case, blobs


class Around(nn.Module):
    """A trunk of timm in a network, with a head and a parameter of its own."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.power = nn.Parameter(torch.ones(()))
        self.head = nn.Linear(4, 2)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "beit_base_patch16_224"])
def test_layers_and_decay_are_those_of_timm(name: str) -> None:
    with torch.device("meta"):
        network = Around(timm.create_model(name, num_classes=0))
    trunk, spared = network.trunk, getattr(network.trunk, "no_weight_decay", set)()
    expected = {
        id(p): (group["lr_scale"], group["weight_decay"])
        for group in param_groups_layer_decay(trunk, 0.05, spared, layer_decay=0.7)
        for p in group["params"]
    }
    groups = parameter_groups(network, nn.Identity(), (1, 10, 100), 0.7, "matrices")
    ours = {id(p): (factor, group.get("weight_decay", 0.05)) for group, factor in groups for p in group["params"]}
    own = {id(network.power): (1, 0), id(network.head.weight): (10, 0.05), id(network.head.bias): (10, 0)}
    assert ours.keys() == {id(p) for p in network.parameters()}
    assert {key: pytest.approx(value) for key, value in (expected | own).items()} == ours


@pytest.mark.parametrize(
    ("trunk", "count", "places"),
    [
        (lambda: models.resnet18(weights=None), 10, {"conv1": 0, "bn1": 0, "layer1.0": 1, "layer4.1": 8, "fc": 9}),
        (lambda: models.convnext_tiny(weights=None), 23, {"features.0": 0, "features.1.2": 3, "classifier.2": 22}),
        (lambda: ConvNet(width=2).trunk, 4, {"0": 0, "1": 0, "4": 1, "13": 3}),
    ],
)
def test_layers_of_another_network_are_its_children(
    trunk: Callable[[], nn.Module], count: int, places: dict[str, int]
) -> None:
    network = trunk()
    numbers = layers(network)
    assert set(numbers.values()) == set(range(count))
    for place, number in places.items():
        assert {numbers[id(p)] for p in network.get_submodule(place).parameters()} == {number}


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_a_pooling_leaves_the_layers_as_they_are(name: str) -> None:
    alone, pooled = (EmbeddingNetwork(name, pretrained=False, pooling=p).trunk for p in (None, Average()))
    found = [{k: layers(trunk)[id(p)] for k, p in trunk.named_parameters()} for trunk in (alone, pooled)]
    assert found[0] == found[1]


def test_layers_that_cannot_be_told_apart() -> None:
    with torch.device("meta"):
        network = models.vit_b_16(weights=None)
    network.heads = nn.Identity()
    with pytest.raises(UserError, match=r"layer_decay: 2 layers of VisionTransformer.*timm:NAME.*group_matcher"):
        layers(network)


def module(network: nn.Module, **settings: Any) -> EmbeddingModule:
    return EmbeddingModule(
        network, LOSSES["proxy anchor"](), CropMirror(size=12), **settings,
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.02),
    )  # fmt: skip


def test_groups_have_names_rates_and_decay_of_their_own() -> None:
    settings = {"head_lr_factor": 2.0, "loss_lr_factor": 3.0, "layer_decay": 0.5, "weight_decay_on": "matrices"}
    made = module(ConvNet(8, width=2), **settings)
    groups = made.configure_optimizers().param_groups
    assert {group["name"]: (group["lr"], group["weight_decay"], len(group["params"])) for group in groups} == {
        **{f"trunk.{i}": (pytest.approx(0.1 * 0.5 ** (3 - i)), 0.02, 1) for i in range(4)},
        **{f"trunk.{i}/undecayed": (pytest.approx(0.1 * 0.5 ** (3 - i)), 0.0, 2) for i in range(4)},
        "head": (0.2, 0.02, 1), "head/undecayed": (0.2, 0.0, 1), "loss/undecayed": (pytest.approx(0.3), 0.0, 1),
    }  # fmt: skip
    plain = module(ConvNet(8, width=2)).configure_optimizers().param_groups
    assert [group["name"] for group in plain] == ["trunk", "head", "loss"]
    assert not any("part" in group for group in plain)


@pytest.mark.parametrize(
    ("names", "frozen"),
    [(["0", "1"], {"0", "1"}), (["[0-4]"], {"0", "1", "4"}), (["*"], {"0", "1", "4", "5", "8", "9", "12", "13"}),
     (["12.weight"], {"12"})],
)  # fmt: skip
def test_parts_of_a_trunk_are_frozen_by_their_names(names: list[str], frozen: set[str]) -> None:
    made = module(ConvNet(8, width=2), frozen=names)
    trunk = made.network.trunk
    assert {name.split(".")[0] for name, p in trunk.named_parameters() if not p.requires_grad} == frozen
    for _ in range(2):
        still = [layer for layer in batchnorms(trunk) if not layer.training]
        assert still == [layer for layer in batchnorms(trunk) if not layer.weight.requires_grad]
        made.train()  # as after a validation
        made.on_train_batch_start({}, 0)


def test_a_name_of_no_part_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.frozen stem: the trunk has no such module or parameter; give 0, 1, 2"):
        module(ConvNet(8, width=2), frozen=["stem"])


def test_a_trunk_alone_is_not_frozen() -> None:
    made = EmbeddingModule(nn.Linear(2, 2), ContrastiveLoss(), CropMirror(), freeze_trunk_steps=3)
    with pytest.raises(UserError, match="neither head nor loss has parameters"):
        made.configure_optimizers()


class Watch(Callback):
    """The trunk's state and optimiser's after each step, bit for bit."""

    def __init__(self) -> None:
        self.trunks: list[dict[str, torch.Tensor]] = []
        self.heads: list[torch.Tensor] = []
        self.moments: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        self.trunks.append({name: value.clone() for name, value in pl_module.network.trunk.state_dict().items()})
        self.heads.append(pl_module.network.head.weight.detach().clone())
        state = trainer.optimizers[0].state
        self.moments.append(sum(p in state for p in pl_module.network.trunk.parameters()))


def test_while_a_trunk_is_frozen_nothing_of_it_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though its weights would decay, and a validation comes in between."""
    torch.manual_seed(0)
    made, watch = module(TinyNetwork(batchnorm=True), freeze_trunk_steps=5, weight_decay_on="matrices"), Watch()
    before = {name: value.clone() for name, value in made.network.trunk.state_dict().items()}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_steps=8, val_check_interval=3, callbacks=[watch], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(made, datamodule=blobs(Case(validate=True), tmp_path))
    for step in range(5):
        assert all(torch.equal(before[name], value) for name, value in watch.trunks[step].items())
    assert watch.moments == [0] * 5 + [4] * 3
    assert all(not torch.equal(a, b) for a, b in zip(watch.heads, watch.heads[1:], strict=False))
    for name, value in watch.trunks[5].items():
        assert not torch.equal(before[name], value), name
    assert watch.trunks[7]["2.num_batches_tracked"] == 3
    steps = [int(trainer.optimizers[0].state[p]["step"]) for p in made.network.trunk.parameters()]
    assert steps == [3] * 4
    out = capsys.readouterr().out
    assert "the trunk is frozen in the first 5 steps" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["trunk", "2,304", "0.1", "0.02"] in lines
    assert ["trunk,", "undecayed", "48", "0.1", "0"] in lines
    assert ["loss,", "undecayed", "160", "0.1", "0"] in lines


def test_the_table_of_layers() -> None:
    made = module(ConvNet(8, width=2), layer_decay=0.5, frozen=["0", "1"])
    found = made.configure_optimizers().param_groups
    assert [line.split() for line in table(found, found, made.network).splitlines()][2:] == [
        ["trunk", "976", "0.025", "to", "0.1", "0.02"], ["head", "1,032", "0.1", "0.02"],
        ["loss", "160", "0.1", "0.02"], ["frozen", "22"],
    ]  # fmt: skip


class Own(EmbeddingModule):
    """Groups that it is told, by the names of parameters; what is missing has the rest's name."""

    told: Any = ()

    def parameter_groups(self) -> list[tuple[dict[str, Any], float]]:
        named = dict(self.named_parameters())
        return [({"params": [named[p] for p in names], "name": name}, 0.5) for name, names in self.told]


def test_groups_of_one_s_own(tmp_path: Path) -> None:
    made = Own(nn.Linear(2, 2), ContrastiveLoss(), CropMirror(), optimizer=lambda groups: torch.optim.SGD(groups, lr=1))
    made.told = [("slow", ["network.weight"]), ("slower", ["network.bias"])]
    groups = made.configure_optimizers().param_groups
    assert [(group["name"], group["lr"], len(group["params"])) for group in groups] == [
        ("slow", 0.5, 1), ("slower", 0.5, 1),
    ]  # fmt: skip
    made.told = [("slow", ["network.weight"])]
    with pytest.warns(UserWarning, match=r"in no group, so that they do not learn: network\.bias"):
        made.configure_optimizers()


def test_groups_without_factors_are_refused() -> None:
    class Plain(EmbeddingModule):
        def parameter_groups(self) -> Any:
            return [{"params": self.network.parameters(), "name": "network"}]

    with pytest.raises(UserError, match="parameter_groups: give pairs"):
        Plain(nn.Linear(2, 2), ContrastiveLoss(), CropMirror()).configure_optimizers()


def test_parameters_that_come_one_by_one_are_in_their_group() -> None:
    """A generator, as ``parameters()`` gives it, can be read once."""

    class All(EmbeddingModule):
        def parameter_groups(self) -> list[tuple[dict[str, Any], float]]:
            return [({"params": self.network.parameters(), "name": "network"}, 1.0)]

    made = All(nn.Linear(2, 2), ContrastiveLoss(), CropMirror())
    (group,) = made.configure_optimizers().param_groups
    assert group["params"] == [*made.network.parameters()]
