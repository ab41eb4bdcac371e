"""Every shipped YAML, and every recipe with every data set, parses by its command and says what to expect."""

import functools
import inspect
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import lifted_lightning.losses
from experiments.checks import recipes
from lifted_lightning.commands.fit import parse
from lifted_lightning.sweep.plan import read_sweep
from lifted_lightning.sweep.trials import ordered_arguments

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in EXPERIMENTS.rglob("*.yaml")
    if path.relative_to(EXPERIMENTS).parts[0] not in ("sweeps", "results", "own")
)
DATA = [path for path in CONFIGS if path.startswith("experiments/data/")]
RECIPES = [path for path in CONFIGS if path.startswith(("experiments/paper/", "experiments/modern/"))]


def header(path: str) -> list[str]:
    """The lines of the comment that opens a file, without their marks."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return [line.lstrip("#").strip() for line in lines[:end]]


def commands_of(path: str) -> list[str]:
    """The commands in a file's header."""
    return [line for line in header(path) if line.startswith("lifted fit ")]


@functools.cache
def parsed(command: str) -> dict[str, Any]:
    """The complete configuration that a `lifted fit` gives, as plain dictionaries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return parse("fit", command.split()[2:])


def combinations() -> list[str]:
    """The commands of all headers; those of a recipe once for each data set."""
    found = dict.fromkeys(command for path in CONFIGS for command in commands_of(path))
    for path in RECIPES:
        for command in commands_of(path):
            found |= dict.fromkeys(re.sub(r"experiments/data/\w+\.yaml", data, command) for data in DATA)
    return list(found)


@pytest.mark.parametrize("command", combinations(), ids=lambda command: command.split("experiments/", 1)[1])
def test_a_combination_parses(command: str) -> None:
    config = parsed(command)
    assert config["experiment"] is not None
    scheduler = config["model"]["scheduler"]
    if scheduler is not None:
        assert scheduler["class_path"].rsplit(".", 1)[1] == "WarmupCosine"
        assert scheduler["init_args"]["steps"] is None, "it is as long as the run, so that max_steps alone changes that"


@pytest.mark.parametrize("path", sorted((EXPERIMENTS / "sweeps").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_trial_of_a_sweep_parses(path: Path) -> None:
    sweep = read_sweep(path)
    *_, last = sweep.examples()
    parsed(" ".join(["lifted fit", *sweep.fixed, *ordered_arguments(last)]))


@pytest.mark.parametrize(("loss", "change"), recipes.ASKED)
def test_a_change_to_a_recipe_parses_and_changes_it(loss: str, change: str, tmp_path: Path) -> None:
    plain, *_ = recipes.trials_of(loss, "recipe", tmp_path)
    changed, *_ = recipes.trials_of(loss, change, tmp_path)
    configs = [parsed(" ".join(["lifted fit", *trial.arguments])) for trial in (plain, changed)]
    assert (configs[0] == configs[1]) == (change == "recipe")


@pytest.mark.parametrize("path", CONFIGS)
def test_an_experiment_says_what_to_expect_and_its_command(path: str) -> None:
    assert re.search(r"\bexpect\b|not run by us", " ".join(header(path)), re.IGNORECASE)
    assert commands_of(path)
    assert all(f"--config {path}" in command for command in commands_of(path))


@pytest.mark.parametrize("path", CONFIGS)
def test_why_embeddings_have_unit_length_or_not_stands_beside_it(path: str) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    settings = [line for line in text.splitlines() if line.strip().startswith("normalize:")]
    assert settings or "network:" not in text
    for line in settings:
        assert re.search(r"normalize: (true|false)  # \w.{20,}", line), line


@pytest.mark.parametrize("path", [path for path in CONFIGS if commands_of(path)[0].count("--config") > 1])
def test_what_goes_on_top_states_classes_and_all_parameters_of_a_loss(path: str) -> None:
    """A loss of a second file takes over what the base's has of the same name, a margin say, if it is silent."""
    model = yaml.safe_load((ROOT / path).read_text(encoding="utf-8")).get("model", {})
    for name in {"network", "augment", "optimizer", "scheduler"} & model.keys():
        assert "class_path" in model[name]
    if loss := model.get("loss"):
        ours = f"{lifted_lightning.losses.__name__}.{loss['class_path']}"
        made = pkgutil.resolve_name(loss["class_path"] if "." in loss["class_path"] else ours)
        # of pytorch-metric-learning's own without what is linked or of its base
        wanted = inspect.signature(made).parameters.keys() - {"num_classes", "embedding_size", "kwargs"}
        assert wanted <= loss["init_args"].keys()


def test_omniglot_s_losses_share_data_length_and_network() -> None:
    lifted = parsed(*commands_of("experiments/omniglot/lifted.yaml"))
    for path in CONFIGS:
        if path.startswith("experiments/omniglot/") and not path.endswith(("longest.yaml", "tuning.yaml")):
            config = parsed(*commands_of(path))
            for part in ("data", "trainer", "evaluation", "experiment", "seed_everything"):
                assert config[part] == lifted[part], path
            network, other = config["model"]["network"], lifted["model"]["network"]
            unchanged = other["init_args"] | {"normalize": network["init_args"]["normalize"]}
            assert network == {**other, "init_args": unchanged}, path
