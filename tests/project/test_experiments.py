"""Every shipped YAML parses by its own command against the real signatures, and says what to expect of it."""

import functools
import inspect
import pkgutil
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifted_lightning.losses
from lifted_lightning.commands.fit import parse

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
CONFIGS = sorted(
    f"experiments/{path}"
    for path in (p.relative_to(EXPERIMENTS) for p in EXPERIMENTS.rglob("*.yaml"))
    if path.parts[0] not in ("sweeps", "results")
)
SHARED = (  # others go on top of them
    "experiments/paper.yaml",
    "experiments/modern.yaml",
    "experiments/cars196/squeezenet_112/base.yaml",
)
DATASETS = {
    "cub200": ("CUB200", [1, 2, 4, 8], "squash"),
    "cars196": ("Cars196", [1, 2, 4, 8], "squash"),
    "sop": ("StanfordOnlineProducts", [1, 10, 100, 1000], "pad"),
    "inshop": ("InShop", [1, 10, 20, 30], "squash"),
}
LOSSES: dict[str, dict[str, Any]] = {
    "contrastive": {
        "class": "ContrastiveLoss",
        "margin": 1.0,
        "pairs": "consecutive",
        "average": "all",
        "squared": True,
    },
    "triplet": {"class": "TripletLoss", "margin": 1.0, "squared": True, "mining": "all", "average": "all"},
    "lifted": {"class": "LiftedStructureLoss", "margin": 1.0, "smooth": True},
}


@functools.cache
def parsed(path: str) -> dict[str, Any]:
    """The complete configuration that the command of a file gives, as plain dictionaries."""
    command = command_of(path)
    assert command[:2] == ["lifted", "fit"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return parse("fit", command[2:])


def header(path: str) -> list[str]:
    """The lines of the comment that opens a file, without their marks."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.lstrip("#").strip() for line in lines[:end]]


def command_of(path: str) -> list[str]:
    """The one command in a file's header."""
    (command,) = [line for line in header(path) if line.startswith("lifted ")]
    return command.split()


def configs_of(path: str) -> list[str]:
    """The files that the command of a file puts together, the base first."""
    command = command_of(path)
    return [value for option, value in pairwise(command) if option == "--config"]


def class_of(value: dict[str, Any]) -> str:
    return value["class_path"].rsplit(".", 1)[1]


def test_there_are_experiments() -> None:
    wanted = {f"experiments/{d}/{x}.yaml" for d in DATASETS for x in (*LOSSES, "modern")}
    wanted |= {f"experiments/omniglot/{loss}.yaml" for loss in LOSSES}
    assert wanted | {*SHARED, "experiments/quickstart.yaml"} <= set(CONFIGS)


@pytest.mark.parametrize("path", CONFIGS)
def test_an_experiment_parses_by_its_own_command(path: str) -> None:
    files = configs_of(path)
    assert 1 <= len(files) <= 3
    assert path in files
    if path not in SHARED:
        assert path == files[-1]
    config = parsed(path)
    assert config["experiment"] is not None
    assert isinstance(config["model"]["network"]["init_args"]["normalize"], bool)
    scheduler = config["model"]["scheduler"]
    if scheduler is not None:
        # Not OneCycleLR: it would undo the head's learning rate.
        steps = {"CosineAnnealingLR": "T_max", "WarmupCosine": "steps"}[class_of(scheduler)]
        assert scheduler["init_args"][steps] == config["trainer"]["max_steps"]


@pytest.mark.parametrize("path", CONFIGS)
def test_an_experiment_says_what_to_expect(path: str) -> None:
    text = " ".join(header(path))
    assert re.search(r"\bexpect\b|not run by us", text, re.IGNORECASE)


@pytest.mark.parametrize("path", CONFIGS)
def test_why_embeddings_have_unit_length_or_not_stands_beside_it(path: str) -> None:
    own = [line for p in configs_of(path) for line in (ROOT / p).read_text(encoding="utf-8").splitlines()]
    settings = [line for line in own if line.strip().startswith("normalize:")]
    assert settings
    for line in settings:
        assert re.search(r"normalize: (true|false)  # \w.{20,}", line), line


@pytest.mark.parametrize("path", CONFIGS)
def test_a_loss_is_stated_with_all_its_parameters(path: str) -> None:
    """A loss of a second file takes over what the base's has of the same name, a margin say, if it is silent."""
    model = yaml.safe_load((ROOT / path).read_text(encoding="utf-8")).get("model", {})
    if len(configs_of(path)) == 2 and "loss" in model:
        loss = model["loss"]
        if "." in loss["class_path"]:  # pytorch-metric-learning's own, without what is linked or of its base
            parameters = inspect.signature(pkgutil.resolve_name(loss["class_path"])).parameters
            own = parameters.keys() - {"num_classes", "embedding_size", "kwargs"}
            assert own <= loss["init_args"].keys()
        else:
            parameters = inspect.signature(getattr(lifted_lightning.losses, loss["class_path"])).parameters
            assert loss["init_args"].keys() == parameters.keys()
    for name in {"network", "augment", "optimizer", "scheduler"} & model.keys():
        assert "class_path" in model[name]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dataset", DATASETS)
def test_the_paper_s_protocol(dataset: str, loss: str) -> None:
    path = f"experiments/{dataset}/{loss}.yaml"
    assert configs_of(path) == ["experiments/paper.yaml", path]
    config = parsed(path)
    model, data, trainer = config["model"], config["data"], config["trainer"]
    network = model["network"]["init_args"]
    assert (network["trunk"], network["pretrained"], network["dropout"]) == ("googlenet", True, 0.4)
    assert network["normalize"] is False
    assert {"class": class_of(model["loss"])} | model["loss"]["init_args"] == LOSSES[loss]
    assert class_of(model["optimizer"]) == "SGD"
    wanted = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 2e-4, "nesterov": False}
    assert wanted.items() <= model["optimizer"]["init_args"].items()
    assert (model["scheduler"], model["head_lr_factor"]) == (None, 10.0)
    assert class_of(model["augment"]) == "CropMirror"
    assert {"size": 227, "mirror": True, "colour_jitter": 0.0}.items() <= model["augment"]["init_args"].items()
    assert (data["size"], data["batch_size"], data["validation_share"]) == (256, 128, 0.0)
    assert (trainer["max_steps"], trainer["max_epochs"], trainer["devices"]) == (20_000, None, 1)
    class_name, ks, resize = DATASETS[dataset]
    assert (class_of(data["dataset"]), data["resize"]) == (class_name, resize)
    assert (list(config["evaluation"]["ks"]), config["experiment"]) == (ks, dataset)
    assert data["sampling"] == ("released" if loss == "contrastive" else "balanced")
    assert data["neighbours"] == (0.5 if loss == "lifted" else 0.0)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_modern_recipe(dataset: str) -> None:
    path = f"experiments/{dataset}/modern.yaml"
    assert configs_of(path) == ["experiments/modern.yaml", path]
    config = parsed(path)
    model = config["model"]
    network = model["network"]["init_args"]
    assert (network["trunk"], network["freeze_batchnorm"]) == ("resnet50", True)
    assert (class_of(model["augment"]), class_of(model["optimizer"])) == ("ResizedCrop", "AdamW")
    assert config["trainer"]["precision"] == "bf16-mixed"
    assert config["data"]["validation_share"] > 0
    assert class_of(config["data"]["dataset"]) == DATASETS[dataset][0]
    assert (list(config["evaluation"]["ks"]), config["experiment"]) == (DATASETS[dataset][1], dataset)


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.startswith("experiments/omniglot/") and "longest" not in p])
def test_omniglot_s_losses_share_data_length_and_network(path: str) -> None:
    lifted, config = parsed("experiments/omniglot/lifted.yaml"), parsed(path)
    for part in ("data", "trainer", "evaluation", "experiment", "seed_everything"):
        assert config[part] == lifted[part]
    network, other = config["model"]["network"], lifted["model"]["network"]
    unchanged = other["init_args"] | {"normalize": network["init_args"]["normalize"]}
    assert network == {**other, "init_args": unchanged}
