"""The committed results: their tables are rebuilt with the same values, and settings are what the trials chose."""

import csv
import json
import re
import shlex
import shutil
from glob import glob
from math import fsum, isclose
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.checks import recipes
from lifted_lightning.cli import main
from lifted_lightning.commands.report import ENSEMBLES
from lifted_lightning.runs.folder import MEMBERS, RESULT
from lifted_lightning.runs.settings import flatten, slug
from tests.project.test_experiments import commands_of as fits_of
from tests.project.test_experiments import parsed
from tests.project.test_readme import commands_of

ROOT = Path(__file__).parents[2]
PLACE = "experiments/results/"
RESULTS = ROOT / PLACE
REPORTS = [
    command
    for command in commands_of((RESULTS / "README.md").read_text(encoding="utf-8"))
    if command.startswith("lifted report ")
]
TUNED = sorted((ROOT / "experiments" / "sweeps" / "tune").glob("*.yaml"))


def results_below(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.rglob(RESULT))]


def words_of(command: str) -> list[str]:
    """A command's words, with file patterns filled in as a shell does."""
    return [found for word in shlex.split(command) for found in sorted(glob(word)) or [word]]


def out_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--out") + 1]


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("command", REPORTS, ids=out_of)
def test_tables_are_rebuilt_with_the_same_values(command: str, tmp_path: Path) -> None:
    out = out_of(command)
    if (kept := Path(out, ENSEMBLES)).exists():
        shutil.copytree(kept, tmp_path / ENSEMBLES)
    assert main([str(tmp_path) if word == out else word for word in words_of(command)][1:]) == 0
    committed = {path.name for path in Path(out).iterdir() if path.is_file()}
    assert {"report.md", "table.csv", "table.tex", "recall.png"} <= committed
    assert committed - {path.name for path in tmp_path.iterdir()} == set()
    for name in sorted(committed):
        if not name.endswith(".png"):  # a picture differs with the version that draws it
            (texts, numbers), (own_texts, own_numbers) = (parts_of(folder / name) for folder in (tmp_path, Path(out)))
            assert texts == own_texts, name
            # A share has six digits; a percentage may be rounded the other way.
            assert numbers == pytest.approx(own_numbers, rel=1e-5, abs=2e-6 if name.endswith(".csv") else 0.11), name


def parts_of(path: Path) -> tuple[list[str], list[float]]:
    """A table's words and its numbers; how wide its columns are does not count."""
    words = re.split(r"[\s,|&${}]+|:?-{2,}:?", path.read_text(encoding="utf-8"))
    number = re.compile(r"[+−-]?\d+(\.\d+)?(e-?\d+)?")
    numbers = [float(word.replace("−", "-")) for word in words if number.fullmatch(word)]
    return [word for word in words if word and not number.fullmatch(word)], numbers


@pytest.mark.parametrize("command", REPORTS, ids=out_of)
def test_means_are_those_of_the_runs(command: str) -> None:
    folders = [word for word in words_of(command) if word.startswith(PLACE) and word != out_of(command)]
    found = [result for folder in folders for result in results_below(Path(folder))]
    if "--ensemble" in words_of(command):  # the models' own tests
        found = [one for one in results_below(Path(out_of(command), ENSEMBLES)) if len(one[MEMBERS]) == 1]
    with (Path(out_of(command)) / "table.csv").open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        count = "runs" if "runs" in (table.fieldnames or ()) else "seeds"
        rows = [row for row in table if row[count].rstrip("†").isdigit()]
    seeds = [int(row[count].rstrip("†")) for row in rows]
    assert sum(seeds) == len(found)
    weighted = fsum(float(row["R@1"]) * n for row, n in zip(rows, seeds, strict=True))
    assert isclose(weighted, fsum(result["test"]["recall@1"] for result in found), rel_tol=1e-5)


def test_each_run_is_of_a_commit_and_nothing_was_changed() -> None:
    for result in results_below(RESULTS):
        if MEMBERS in result:  # of the models of runs that have theirs
            continue
        assert len(result["git"]["commit"]) == 40, result["name"]
        assert result["git"]["changed"] is False, result["name"]


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_chosen_settings_are_those_of_the_best_trial(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = path.stem.partition("_")[0]
    trials = results_below(RESULTS / f"{data}_tuning" / slug(sweep["name"]))
    assert len(trials) == sweep["run_cap"]
    assert not any(trial["test"] for trial in trials)
    best = max(trials, key=lambda trial: trial["validation"]["map@r"])
    files = [word.removeprefix("--config=") for word in sweep["command"] if "--config=" in str(word)]
    config = next(file for file in reversed(files) if not file.endswith("/tuning.yaml"))
    chosen, tried = flatten(parsed(*fits_of(config))), flatten(best["config"])
    for key in sweep["parameters"]:
        assert isclose(chosen[key], tried[key], rel_tol=5e-3), key


def test_the_recipes_table_is_that_of_the_runs() -> None:
    assert recipes.table(RESULTS / "cars196_recipes") in (RESULTS / "README.md").read_text(encoding="utf-8")


def test_the_readme_s_tables_are_the_reports() -> None:
    rows = set()
    for command in REPORTS:
        table = (
            (Path(out_of(command)) / "report.md").read_text(encoding="utf-8").partition("\n| ")[2].partition("\n\n")[0]
        )
        head, _, *lines = map(cells_of, table.splitlines())
        if columns := [head.index(name) for name in ("R@1", "MAP@R", "NMI", "F1") if name in head][:4]:
            rows |= {tuple(cells[i] for i in columns) for cells in lines}
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Results\n")[2].partition("\n## ")[0]
    shown = [cells_of(line)[1:] for line in section.splitlines() if line.startswith("| ") and "R@1" not in line]
    assert len(shown) > 10
    for cells in shown:
        assert tuple(cells) in rows, cells


def cells_of(line: str) -> list[str]:
    """The cells of a row of a Markdown table, without marks for bold."""
    return [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]
