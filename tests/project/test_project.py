"""The project's own files agree with one another: environment, README, and what may import what."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from importlinter.cli import lint_imports

import lifted_lightning

ROOT = Path(__file__).parents[2]


def test_the_conda_environment_installs_the_package_with_its_extras() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python"))
    assert python == f"python{project['requires-python']}"
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    extras = re.fullmatch(r"-e \.\[(.*)\]", pip[0])
    assert extras
    assert len(pip) == 1
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])


def test_the_dev_extra_has_all_that_tests_import() -> None:
    """Nothing is importable in the tests only because this machine happens to have it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    own = re.fullmatch(r"lifted-lightning\[(.*)\]", extras["dev"][0])
    assert own
    with_dev = [package for extra in own[1].split(",") for package in extras[extra]]
    named = " ".join([*project["dependencies"], *extras["dev"], *with_dev]).lower()
    distribution = {"sklearn": "scikit-learn", "yaml": "jsonargparse", "PIL": "pillow", "faiss": "faiss-cpu"}
    distribution |= {"importlinter": "import-linter"}
    implied = {"lightning_fabric": "pytorch-lightning", "scipy": "scikit-learn", "fontTools": "matplotlib"}
    ours = {"lifted_lightning", "tests", "experiments"} | sys.stdlib_module_names
    for path in (ROOT / "tests").rglob("*.py"):
        for module in imported(path):
            top = module.split(".")[0]
            if top not in ours:
                name = (distribution | implied).get(top, top).replace("_", "-").lower()
                assert name in named, f"{path.name} imports {top}"


def imported(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return found


def test_imports_point_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    """The rules are in pyproject.toml; ``lint-imports`` checks them, too."""
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert not broken, capsys.readouterr().out


def test_the_public_names_are_there_and_documented() -> None:
    for name in lifted_lightning.__all__:
        assert getattr(lifted_lightning, name).__name__ == name
        assert getattr(lifted_lightning, name).__doc__
    with pytest.raises(AttributeError, match="No lifted_lightning attribute nothing"):
        lifted_lightning.nothing  # noqa: B018


def test_the_map_names_every_room_and_every_loose_file_and_no_file_that_is_gone() -> None:
    package = ROOT / "lifted_lightning"
    rooms = {path.parent.relative_to(package) for path in package.rglob("*.py")} - {Path()}
    loose = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = dict(re.findall(r"^\| `([\w/]+/|\w+\.py)` \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() == {f"{room}/" for room in rooms} | loose
    for name, about in rows.items():
        for file in re.findall(r"`(\w+\.py)`", about):
            assert (package / name / file).is_file(), f"{name}{file}"
