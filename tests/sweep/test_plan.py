"""Sweep files: what they mean, and what is said of wrong ones."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lifted_lightning.errors import UserError
from lifted_lightning.sweep.plan import Halving, Parameter, read_sweep

ROOT = Path(__file__).parents[2]
SHIPPED = sorted((ROOT / "experiments" / "sweeps").rglob("*.yaml"))
COMMAND = ["${env}", "lifted", "fit", "--config", "base.yaml", "${args}"]
GRID: dict[str, Any] = {
    "method": "grid",
    "parameters": {"model.loss": {"values": ["A", "B"]}, "seed_everything": {"values": [0, 1, 2]}},
    "command": COMMAND,
}
BAYES: dict[str, Any] = {
    "method": "bayes",
    "run_cap": 4,
    "metric": {"name": "validation/map@r", "goal": "maximize"},
    "parameters": {"margin": {"min": 0.1, "max": 2.0}},
    "command": COMMAND,
}


def sweep_file(folder: Path, content: Any) -> Path:
    path = folder / "my_sweep.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_grid_is_every_combination(tmp_path: Path) -> None:
    sweep = read_sweep(sweep_file(tmp_path, GRID))
    assert sweep.name == "my_sweep"
    assert sweep.fixed == ("--config=base.yaml",)
    expected = [{"model.loss": loss, "seed_everything": seed} for loss in "AB" for seed in range(3)]
    assert list(sweep.grid()) == expected


def test_ranges_as_wandb_means_them(tmp_path: Path) -> None:
    parameters = {
        "a": {"min": 1, "max": 4},
        "b": {"min": 0.5, "max": 4},
        "c": {"min": "1e-4", "max": "1e-2", "distribution": "log_uniform_values"},
        "d": {"min": -2, "max": 0, "distribution": "log_uniform"},
        "e": {"min": 0, "max": 1, "distribution": "q_uniform", "q": 0.25},
        "f": {"value": 3},
        "g": {"parameters": {"x": {"values": [1, 2]}}},
    }
    found = read_sweep(sweep_file(tmp_path, BAYES | {"parameters": parameters})).parameters
    assert found == {
        "a": Parameter("int", low=1, high=4),
        "b": Parameter("float", low=0.5, high=4),
        "c": Parameter("float", low=1e-4, high=1e-2, log=True),
        "d": Parameter("float", low=math.exp(-2), high=1, log=True),
        "e": Parameter("float", low=0, high=1, step=0.25),
        "f": Parameter("values", (3,)),
        "g.x": Parameter("values", (1, 2)),
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"type": "hyperband", "min_iter": 2, "eta": 2}, Halving(2, 2)),
        ({"type": "hyperband", "min_iter": 3}, Halving(3, 3)),
        ({"type": "hyperband", "max_iter": 27, "s": 2}, Halving(3, 3)),
    ],
)
def test_hyperband_is_successive_halving(tmp_path: Path, given: dict[str, Any], expected: Halving) -> None:
    assert read_sweep(sweep_file(tmp_path, BAYES | {"early_terminate": given})).halving == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "gird"}, "method 'gird'"),
        ({"metod": "grid"}, "did you mean method"),
        ({"parameters": {}}, "parameters: give at least one"),
        ({"parameters": {"a": {"values": []}}}, "parameters.a: values: give a list"),
        ({"parameters": {"a": {"valeus": [1]}}}, "did you mean values"),
        ({"parameters": {"a": {"min": 1.0, "max": 2.0}}}, "a grid needs values"),
        ({"parameters": {"a": 3}}, "parameters.a: give value"),
        ({"parameters": {"a": {"min": 3, "max": 1}}}, "min 3 is not below max 1"),
        ({"parameters": {"name": {"value": "x"}}}, "name: is set by the sweep"),
        ({"parameters": {"a": {"min": 0, "max": 1, "distribution": "beta"}}}, "distribution beta"),
        ({"parameters": {"a": {"min": 0.5, "max": 1, "q": -1}}}, "a: q -1: give a step above 0"),
        ({"parameters": {"a": {"min": 0.5, "max": 1, "q": "x"}}}, "a: give value, values, or numbers"),
        ({"parameters": {"a": {"min": 1, "max": 9, "q": 2}}}, "a: q 2: is no setting of int_uniform"),
        ({"parameters": {"a": {"min": 0.5, "max": 3, "distribution": "int_uniform"}}}, "a: min 0.5, max 3: give whole"),
        ({"parameters": {"a": {"min": 0, "max": 1e4, "distribution": "log_uniform"}}}, "a: distribution log_uniform"),
        ({"command": ["python", "train.py"]}, "command: give"),
        ({"command": ["lifted", "test", "${args}"]}, "command: give"),
        ({"command": [*COMMAND[:3], "--runs_dir=x", "${args}"]}, "runs_dir: is set by the sweep"),
        ({"method": "random"}, "run_cap: method random"),
        ({"run_cap": 0}, "run_cap 0"),
        ({"metric": {"name": "x", "goal": "up"}}, "metric.goal 'up'"),
        ({"early_terminate": {"type": "median"}}, "only hyperband"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1}}, "metric: give the name"),
        (BAYES | {"metric": {"name": "test/map@r", "goal": "maximize"}}, "the test classes choose nothing"),
    ],
)
def test_a_wrong_file_is_named_with_the_remedy(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    path = sweep_file(tmp_path, GRID | change)
    with pytest.raises(UserError) as caught:
        read_sweep(path)
    assert str(caught.value).startswith(str(path))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_sweeps_are_sound(path: Path) -> None:
    sweep = read_sweep(path)
    if path.stem not in ("cars196_long", "cars196_lite0"):  # in which no class validates, and nothing is chosen
        assert sweep.metric is not None
        assert sweep.metric.startswith("validation/")
    opening = path.read_text().splitlines()[0]
    assert opening.startswith("# ")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_values_come_through_wandbs_agent_as_they_were(path: Path) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    for values in read_sweep(path).examples():
        given = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
        read = [yaml.safe_load(word.partition("=")[2]) for word in given]
        pairs = zip(read, values.values(), strict=True)  # 5e-05 is a number to the command line, if not to PyYAML
        assert [float(a) if isinstance(b, float) else a for a, b in pairs] == [*values.values()]


@pytest.mark.slow
def test_wandb_takes_the_shipped_sweeps(tmp_path: Path) -> None:
    """W&B's own schema, from its package `sweeps`, which asks for an older NumPy than this project's."""
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path)]
    if subprocess.run([*install, "sweeps==0.3.0", "jsonref==1.1.0"], check=False).returncode:
        pytest.skip("the package index does not give W&B's sweeps package")
    program = (
        "import sys, yaml; from sweeps.config.schema import fill_validate_schema as check\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        check(yaml.safe_load(open(path))); print('taken', path)\n"
        "    except Exception as error:\n"
        "        print('refused', path, repr(error))\n"
    )
    wrong = sweep_file(tmp_path, GRID | {"method": "gird"})
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, SHIPPED), str(wrong)],
        env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *ours, last = done.stdout.strip().splitlines()
    assert ours == [f"taken {path}" for path in SHIPPED]
    assert last.startswith("refused")
