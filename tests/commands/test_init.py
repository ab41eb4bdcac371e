"""`lifted init`. That a folder of the wheel's works is in project/test_wheel.py."""

import re
from pathlib import Path

import pytest
import yaml

from lifted_lightning.cli import main, usage
from lifted_lightning.commands.fit import parse
from lifted_lightning.sweep.plan import read_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `lifted init` has written."""
    assert main(["init", str(tmp_path / "a" / "new one")]) == 0
    return tmp_path / "a" / "new one"


def test_it_says_what_is_next(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert f"next:  cd '{folder}'\n       lifted fit --config experiments/quickstart.yaml" in capsys.readouterr().out
    assert (folder / "experiments" / "quickstart.yaml").is_file()


def test_recipes_and_examples_are_those_of_the_project(folder: Path) -> None:
    written = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    for name, path in written.items():
        if name.startswith("experiments/"):
            assert path.read_bytes() == (ROOT / name).read_bytes(), name
    wanted = {"quickstart.yaml", "photographs.yaml", "own/my_loss.py", "own/paper/README.md", "sweeps/quick.yaml"}
    assert {f"experiments/{name}" for name in wanted} | {".gitignore", "environment.yml"} <= written.keys()
    assert not any(re.search("runs/|results/|checks/|benchmarks/|__pycache__", name) for name in written)


def test_what_help_says_parses_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    command = usage().splitlines()[-1].split()
    assert command[:2] == ["lifted", "fit"]
    assert parse("fit", command[2:])["experiment"] == "quickstart"
    assert len(list(read_sweep(Path("experiments/sweeps/quick.yaml")).grid())) == 6


def test_the_environment_is_the_project_s_with_the_package(folder: Path) -> None:
    made, ours = (yaml.safe_load((root / "environment.yml").read_text()) for root in (folder, ROOT))
    assert [made["name"], *made["dependencies"][:-1]] == [ours["name"], *ours["dependencies"][:-1]]
    (package,) = made["dependencies"][-1]["pip"]
    assert re.fullmatch(r"lifted-lightning\[all\]==\d+\.\d+\.\d+", package)


@pytest.mark.parametrize("there", ["a folder with a file", "a file"])
def test_nothing_is_written_over(there: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "taken"
    if there == "a file":
        taken.touch()
    else:
        (taken / "mine").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    assert main(["init", str(taken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_who_has_no_experiments_is_told_of_init(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (["fit", "--config", "experiments/quickstart.yaml"], ["sweep", "experiments/sweeps/quick.yaml"]):
        assert main(command) == 2
        assert "lifted init FOLDER" in capsys.readouterr().err
