"""The committed results: their tables are rebuilt byte for byte, and the settings are those that the trials chose."""

import csv
import json
import shlex
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from lifted_lightning import runs
from lifted_lightning.cli import main
from tests.test_experiments import parsed
from tests.test_readme import commands_of

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
REPORTS = [
    command
    for command in commands_of((RESULTS / "README.md").read_text(encoding="utf-8"))
    if command.startswith("lifted report ")
]
TUNED = sorted((ROOT / "experiments" / "sweeps" / "tune").glob("*.yaml"))


def results_below(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted(folder.glob(f"*/{runs.RESULT}"))]


def out_of(command: str) -> str:
    words = shlex.split(command)
    return words[words.index("--out") + 1]


@pytest.mark.parametrize("command", REPORTS, ids=out_of)
def test_tables_are_rebuilt_byte_for_byte(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    out = out_of(command)
    words = [str(tmp_path) if word == out else word for word in shlex.split(command)]
    assert main(words[1:]) == 0
    committed = {path.name for path in Path(out).iterdir()}
    assert {"report.md", "table.csv", "table.tex", "recall.png"} <= committed
    made = {path.name for path in tmp_path.iterdir()}
    assert committed - made == set()
    for name in sorted(committed):
        if not name.endswith((".png", ".svg", ".html")):  # pictures differ with the version that draws them
            assert (tmp_path / name).read_bytes() == (Path(out) / name).read_bytes(), name


@pytest.mark.parametrize("command", REPORTS, ids=out_of)
def test_means_are_those_of_the_runs(command: str) -> None:
    folders = [ROOT / word for word in shlex.split(command)[2:] if word.startswith("experiments/results")]
    found = [result for folder in folders[:-1] for result in results_below(folder)]
    with (ROOT / out_of(command) / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["seeds"] or "–").isdigit()]
    assert sum(int(row["seeds"]) for row in rows) == len(found)
    weighted = fmean(float(row["R@1"]) for row in rows for _ in range(int(row["seeds"])))
    assert isclose(weighted, fmean(result["test"]["recall@1"] for result in found), abs_tol=1e-5)


def test_all_is_of_one_commit_and_nothing_was_changed() -> None:
    for data in RESULTS.iterdir():
        if data.is_dir() and not data.name.endswith("_tuning"):
            found = [result["git"] for folder in data.iterdir() for result in results_below(folder)]
            assert len({git["commit"] for git in found}) == 1, data.name
            assert not any(git["changed"] for git in found), data.name


@pytest.mark.parametrize("path", TUNED, ids=lambda path: path.stem)
def test_chosen_settings_are_those_of_the_best_trial(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    data = path.stem.partition("_")[0]
    trials = results_below(RESULTS / f"{data}_tuning" / runs.slug(sweep["name"]))
    assert len(trials) == sweep["run_cap"]
    assert not any(trial["test"] for trial in trials)
    best = max(trials, key=lambda trial: trial["validation"]["map@r"])
    config = [word.removeprefix("--config=") for word in sweep["command"] if "--config=" in str(word)][-1]
    chosen, tried = runs.flatten(parsed(config)), runs.flatten(best["config"])
    for key in sweep["parameters"]:
        assert isclose(chosen[key], tried[key], rel_tol=5e-3), key
