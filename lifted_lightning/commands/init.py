"""`lifted init FOLDER`: a folder to start in, with the recipes, sweeps and examples that the package brings along."""

import argparse
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import lifted_lightning
from lifted_lightning.commands.arguments import CommandParser
from lifted_lightning.errors import UserError
from lifted_lightning.files import writing

EXPERIMENTS = "experiments"
BROUGHT = (
    "**/*.yaml",
    "own/**/*.py",
    "own/**/*.md",
    "slurm/*.sbatch",
)  # but for runs; pyproject.toml puts the same into the wheel
IGNORED = "__pycache__/\nruns/\nwandb/\n/data/\n"
ENVIRONMENT = """\
# conda env create -f environment.yml && conda activate lifted-lightning
name: lifted-lightning
channels:
  - conda-forge
dependencies:
  - python>=3.11.4
  - pip
  - pip:
      - lifted-lightning[all]=={version}  # or the path of a wheel
"""


def recipes() -> dict[str, Path]:
    """YAMLs and examples: the files by their names, ``experiments/quickstart.yaml``, beside the package in a clone."""
    package = Path(lifted_lightning.__file__).parent
    root = package if (package / EXPERIMENTS).is_dir() else package.parent
    paths = sorted({path for pattern in BROUGHT for path in (root / EXPERIMENTS).glob(pattern)})
    names = {path.relative_to(root): path for path in paths}
    return {name.as_posix(): path for name, path in names.items() if "runs" not in name.parts}


def parser() -> argparse.ArgumentParser:
    """The options of `lifted init`."""
    result = CommandParser(
        prog="lifted init",
        description="Write a folder to start in: recipes, sweeps, examples of classes of your own, .gitignore and "
        "environment.yml. What is said anywhere of experiments/ works from there.",
    )
    result.add_argument("folder", type=Path, metavar="FOLDER", help="a new or empty folder")
    return result


def run(arguments: Sequence[str]) -> int:
    """The command itself; returns its exit code."""
    folder: Path = parser().parse_args(arguments).folder
    with writing(str(folder)):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder}: is there and not empty; give the name of a new folder")
        for name, path in recipes().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
        (folder / ".gitignore").write_text(IGNORED, encoding="utf-8")
        environment = ENVIRONMENT.format(version=lifted_lightning.__version__)
        (folder / "environment.yml").write_text(environment, encoding="utf-8")
    print(f"{folder}: recipes and sweeps in {EXPERIMENTS}/, examples of classes of your own in {EXPERIMENTS}/own/")
    print(f"next:  cd {shlex.quote(str(folder))}\n       lifted fit --config {EXPERIMENTS}/quickstart.yaml")
    return 0
