"""The table of changes to a recipe, against scipy's paired t-test."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.checks import recipes
from lifted_lightning.errors import UserError


def write(folder: Path, loss: str, change: str, scores: dict[int, float], name: str = "seed") -> None:
    for seed, score in scores.items():
        run = recipes.folder_of(loss, change, folder) / f"{name}{seed}"
        run.mkdir(parents=True)
        result = {"seed": seed, "validation": {"recall@1": score, "map@r": score / 2}}
        (run / "result.json").write_text(json.dumps(result))


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    plain, better, worse = [0.60, 0.62, 0.67], [0.63, 0.65, 0.701], [0.61, 0.60, 0.60]
    write(tmp_path, "proxy_anchor", "recipe", dict(enumerate(plain)))
    write(tmp_path, "proxy_anchor", "gem", dict(enumerate(better)))
    write(tmp_path, "proxy_anchor", "warm-up", dict(enumerate(worse)))
    write(tmp_path, "proxy_anchor", "size-64", {0: 0.5, 7: 0.9})  # of which one seed has a recipe's run
    write(tmp_path, "lifted", "length-5", {0: 0.5})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in recipes.table(tmp_path).splitlines()[2:]]
    found = {(row[0], row[1]): row[2:] for row in rows}
    assert found["proxy anchor", "recipe"] == ["3", "63.0", "31.5", "–", "–"]
    test = stats.ttest_rel(better, plain)
    assert 2 * test.pvalue < 0.05 < 2 * stats.ttest_rel(worse, plain).pvalue
    half = 100 * float(np.ptp(test.confidence_interval(0.95))) / 2
    assert found["proxy anchor", "gem"] == ["3", "66.0", "33.0", f"**+3.0 ± {half:.1f}**", f"**+1.5 ± {half / 2:.1f}**"]
    assert found["proxy anchor", "warm-up"][3].startswith("−2.7 ± ")
    assert found["proxy anchor", "size-64"] == ["1", "70.0", "35.0", "−10.0", "−5.0"]
    assert found["lifted", "length-5"] == ["0", "50.0", "25.0", "–", "–"]


def test_two_runs_of_a_seed_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "lifted", "recipe", {0: 0.5})
    write(tmp_path, "lifted", "recipe", {0: 0.6}, "older-seed")
    with pytest.raises(UserError, match="lifted-recipe: has two runs of seed 0"):
        recipes.table(tmp_path)
