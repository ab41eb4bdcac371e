"""Tests of differences against scipy.stats, loops over all signs, and simulation."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.checks.comparisons import Design, called_different, simulated
from lifted_lightning.report import paired
from lifted_lightning.report.statistics import estimate, holm, needed, sign_flips, spread_of, t_test
from lifted_lightning.report.tables import ensembles, results
from tests.helpers.run_folders import make_run
from tests.report.test_compare import compared
from tests.report.test_tables import cells_of


@pytest.mark.parametrize("n", [2, 3, 5, 30])
def test_an_interval_and_a_test_are_student_s(n: int) -> None:
    values = np.random.default_rng(n).normal(0.01, 0.02, n)
    # Another group, of one value, and a value that is missing, change nothing.
    frame = pd.DataFrame({"x": [*values, np.nan, 0.5]})
    found = estimate(frame, [0] * (n + 1) + [1])
    mean, half, count = (frame["x"] for frame in found)
    expected = stats.ttest_1samp(values, 0.0)
    assert (mean[0] - half[0], mean[0] + half[0]) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert (mean[1], np.isnan(half[1]), list(count)) == (0.5, True, [n, 1])
    assert spread_of(found)["x"][0] == pytest.approx(values.std(ddof=1))
    assert t_test(found)["x"][0] == pytest.approx(expected.pvalue)
    assert np.isnan(t_test(found)["x"][1])


def test_what_agrees_but_for_rounding_shows_no_spread() -> None:
    found = estimate(pd.DataFrame({"x": [0.8 - 0.7, 0.81 - 0.71, 0.9 - 0.8]}), [0, 0, 0])
    assert found.half["x"][0] == 0
    assert np.isnan(t_test(found)["x"][0])


def test_holm_is_its_definition() -> None:
    def by_loop(p: list[float], number: int) -> list[float]:
        adjusted, worst = [0.0] * len(p), 0.0
        for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
            worst = max(worst, min(1.0, (number - rank) * p[i]))
            adjusted[i] = worst
        return adjusted

    for seed in range(20):
        p = np.random.default_rng(seed).random(1 + seed % 6) ** 3
        for others in (0, 4):
            assert holm(p, others) == pytest.approx(by_loop(p.tolist(), len(p) + others))
    missing = holm(np.array([0.01, np.nan, 0.04]))
    assert missing == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize("n", [6, 7, 11])
def test_sign_flips_are_all_of_them(n: int) -> None:
    for seed in range(4):
        d = np.random.default_rng(seed).normal(0.3, 1, n).round(seed)  # rounded, so that sums meet
        sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in product((-1, 1), repeat=n)]
        expected = sum(total >= abs(d.sum()) - 1e-9 for total in sums) / 2**n
        assert sign_flips(np.append(d, np.nan)) == expected
    assert sign_flips(np.full(n, 0.1)) == 2 / 2**n
    assert sign_flips(np.zeros(n)) == 1
    assert np.isnan(sign_flips(np.ones(5)))


@pytest.mark.parametrize(("spread", "difference"), [(0.01, 0.005), (0.004, 0.01), (0.0001, 0.01), (0.03, 0.01)])
def test_needed_seeds_have_the_power_that_is_simulated(spread: float, difference: float) -> None:
    n = int(needed(np.array([spread]), difference)[0])
    random = np.random.default_rng(0)

    def power(count: int) -> float:
        values = random.normal(difference, spread, (20_000, count))
        return float((stats.ttest_1samp(values, 0.0, axis=1).pvalue < 0.05).mean())

    assert power(n) > 0.79
    assert n == 2 or power(n - 1) < 0.81


def test_needed_seeds_where_there_is_no_number() -> None:
    assert needed(np.array([np.nan, 0.0, 9.0, 1e-9]), 0.005) == pytest.approx([np.nan, np.nan, np.inf, 2], nan_ok=True)


@pytest.mark.parametrize("design", [Design(3, 4, 2), Design(4, 0, 6)])
def test_equal_losses_are_called_different_as_often_as_said(design: Design) -> None:
    pairs = simulated(design, families=2500)
    assert pairs.differences.shape[1] == (design.folds or design.repeats)
    assert called_different(pairs.p)[0] == pytest.approx(0.05, abs=0.015)
    assert called_different(pairs.corrected)[1] <= 0.06
    if design.folds:  # runs of a fold, each as an independent one, would err three times as often
        assert called_different(simulated(design, 500, as_independent=True).p)[0] > 0.1


def test_runs_of_a_fold_count_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    scores = {loss: random.normal(0.7, 0.02, (4, 2)) for loss in ("TripletLoss", "LiftedStructureLoss")}
    for loss, folds in scores.items():
        for (fold, seed), score in np.ndenumerate(folds):
            make_run(tmp_path / f"{loss}{fold}{seed}", seed, loss, score, data__folds=4, data__fold=fold)
    comparison = compared(tmp_path)
    assert comparison.columns == ["loss"]
    by_fold = {loss: score.mean(axis=1) for loss, score in scores.items()}
    expected = stats.ttest_rel(by_fold["LiftedStructureLoss"], by_fold["TripletLoss"])
    pairs = paired.pairs_of(comparison)
    assert pairs.p["recall@1"].tolist() == pytest.approx([expected.pvalue])
    assert comparison.estimates.n["test/recall@1"].tolist() == [4, 4]
    interval = stats.ttest_1samp(by_fold["TripletLoss"], 0).confidence_interval(0.95)
    row = comparison.estimates.mean["test/recall@1"][0], comparison.estimates.half["test/recall@1"][0]
    assert (row[0] - row[1], row[0] + row[1]) == pytest.approx(tuple(interval))
    head, *rows = cells_of(paired.decisions(pairs))
    assert head[:3] == ["difference", "metric", "folds"]
    assert head[-3:] == ["p, sign flips", "folds to see 0.5", "folds to see 1"]
    assert [row[:3] for row in rows] == [["LiftedStructure − Triplet", metric, "4†"] for metric in ("R@1", "MAP@R")]
    assert {row[-3] for row in rows} == {"n too small"}


def test_a_fold_is_told_from_seeds_and_from_folds_of_another_split(tmp_path: Path) -> None:
    for loss in ("TripletLoss", "LiftedStructureLoss"):
        for fold, seed in ((1, 10), (11, 0)):
            make_run(tmp_path / f"{loss}{fold}", seed, loss, 0.7 + fold / 100, data__folds=12, data__fold=fold)
    assert paired.pairs_of(compared(tmp_path)).found.n["recall@1"].tolist() == [2]
    for fold in (0, 1, 11):
        about = {"data__folds": 12, "data__fold": fold, "data__split_seed": 1}
        make_run(tmp_path / f"other{fold}", 0, "ContrastiveLoss", 0.6 + fold / 100, **about)
    assert list(paired.pairs_of(compared(tmp_path)).texts["difference"]) == ["LiftedStructure − Triplet"]


def test_a_row_without_folds_counts_seeds_and_is_marked(tmp_path: Path) -> None:
    for number in range(3):
        make_run(tmp_path / f"l{number}", number, "LiftedStructureLoss", 0.6 + number / 40)
        make_run(tmp_path / f"f{number}", 0, "TripletLoss", 0.7 + number / 50, data__folds=3, data__fold=number)
        make_run(tmp_path / f"s{number}", number, "ContrastiveLoss", 0.6 + number / 50)
    comparison = compared(tmp_path)
    texts = results(comparison).texts.iloc[1:]  # below the baseline
    assert texts[["loss", "folds", "differs in"]].to_numpy().tolist() == [
        ["Contrastive", "3 seeds†", "–"],
        ["Triplet", "3†", "folds"],
        ["LiftedStructure", "3 seeds†", "–"],
    ]
    pairs = paired.pairs_of(comparison)
    for table in (paired.differences(pairs), paired.decisions(pairs)):
        assert {*table.texts["folds"]} == {"3 seeds†"}
    alone = [
        (run["folder"], {"members": [{}], "embedding_size": 64, "test": run["result"]["test"]})
        for _, run in comparison.runs.iterrows()
    ]
    assert list(ensembles(comparison, alone).texts["of"]) == ["3 seeds", "3 folds", "3 seeds"]


def test_pairs_that_are_not_shown_are_corrected_for(tmp_path: Path) -> None:
    """Of many losses each is shown with the best, which is chosen by the numbers: all pairs might have been shown."""
    random = np.random.default_rng(0)
    for number in range(6):
        for seed in range(6):
            score = 0.5 + number / 100 + random.normal(0, 0.01)
            make_run(tmp_path / f"{number}-{seed}", seed, f"my.package.Number{number}Loss", score)
    pairs = paired.pairs_of(compared(tmp_path))
    assert (pairs.family, int(pairs.shown.sum())) == (15, 5)
    raw = pairs.p["recall@1"].to_numpy()
    assert pairs.corrected["recall@1"].min() == pytest.approx(min(1.0, 15 * raw.min()))
    shown = paired.decisions(pairs).numbers.mean
    assert shown["p, Holm"][0] == pytest.approx(pairs.corrected["recall@1"][pairs.shown].iloc[0])
