"""Differences between two rows, run by run over what both have, and which of them hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pandas as pd

from lifted_lightning.errors import counted
from lifted_lightning.report.compare import LOSS, Comparison, show, words
from lifted_lightning.report.formats import NONE, Kind, Table
from lifted_lightning.report.statistics import (
    LEVEL,
    Estimates,
    FloatArray,
    estimate,
    holm,
    needed,
    sign_flips,
    spread_of,
    t_test,
)
from lifted_lightning.report.tables import DIFFERS, independent, main_metrics, metric_name

ALL_PAIRS = 4  # rows of which each pair is shown; of more, each with the best
MOST_PAIRS = 30  # rows of which each pair is tested, and in the CSV files; of more, each with the best
_TESTED = ("recall@1", "map@r")  # the metrics whose tests are shown; the CSV file has those of all
_POINTS = (0.005, 0.01)  # differences for which the seeds that would show them are told


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows that are alike in all columns but one, each the later row minus the earlier, or minus the best.

    Attributes:
        texts: what the tables say of each pair; ``shown``: whether it stands in the report, or in its CSV files alone.
        parts: the block of each pair; a line stands between two.
        metrics: those compared.
        differences: (pairs, units, metrics), the mean difference of each seed, or of the runs of each fold, that both
            rows have; NaN where they share none.
        found: mean, interval and number of these, a column a metric.
        p: of the paired t-test; ``corrected`` by Holm over ``family`` pairs, those of all blocks, metric by metric.
        units: ``seeds`` or ``folds``; ``as_headed``: of which pairs, for those of rows without folds are always seeds.
    """

    texts: pd.DataFrame
    shown: pd.Series
    parts: list[tuple[str, int]]
    metrics: list[str]
    differences: FloatArray
    found: Estimates
    p: pd.DataFrame
    corrected: pd.DataFrame
    family: int
    units: str
    as_headed: npt.NDArray[np.bool_]


def pairs_of(comparison: Comparison) -> Pairs:
    """Compare the rows, pair by pair.

    Which pairs are shown may follow from the numbers, as what is best does. So p is corrected for all that might be.
    """
    rows, context = comparison.rows, comparison.context
    pairs, shown, untested = list[tuple[str, int, int, int]](), list[bool](), 0
    counts = comparison.runs.groupby("row")["unit"].nunique()
    for column in [LOSS, *(c for c in context if c not in ("dataset", "embedding_size"))]:
        for number, block in enumerate(comparison.blocks([c for c in [LOSS, *context] if c != column])):
            block = [row for row in block if counts[row] > 1]
            tested, few = (_pairs_in(comparison, block, most) for most in (MOST_PAIRS, ALL_PAIRS))
            tested = [pair[::-1] if pair[::-1] in few else pair for pair in tested]
            untested += len(block) * (len(block) - 1) // 2 - len(tested)
            pairs += [(column, number, *pair) for pair in tested]
            shown += [pair in few for pair in tested]
    metrics = main_metrics(comparison)
    differences, found = _differences(comparison, [pair[2:] for pair in pairs], metrics)
    kept = found.mean.notna().any(axis=1).to_numpy()
    pairs = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    found = Estimates(*(frame[kept].reset_index(drop=True) for frame in found))
    p = t_test(found)
    texts = []
    for column, _, first, second in pairs:
        what = " − ".join(show(rows[column][row]) for row in (first, second))
        name = what if column == LOSS else f"{rows[LOSS][first]}: {words(column)} {what}"
        texts.append([name, *(NONE if c == column else show(rows[c][first]) for c in context)])
    table = pd.DataFrame(texts, columns=["difference", *map(words, context)], index=found.n.index)
    headed = comparison.as_headed[[first for _, _, first, _ in pairs]].to_numpy()
    table[comparison.units] = list(map(independent, found.n.min(axis=1), headed))
    unlike = [", ".join(comparison.unlike_pair(first, second, column)) or NONE for column, _, first, second in pairs]
    if {*unlike} - {NONE}:
        table[DIFFERS] = unlike
    corrected = pd.DataFrame({name: holm(p[name].to_numpy(), untested) for name in p}, p.index)
    visible = pd.Series(shown, dtype=bool)[kept].reset_index(drop=True)
    parts, family = [pair[:2] for pair in pairs], len(p) + untested
    units = comparison.units
    return Pairs(table, visible, parts, metrics, differences[kept], found, p, corrected, family, units, headed)


def differences(pairs: Pairs, shown: bool = True) -> Table:
    """The difference of each pair in each metric; of those shown in the report, or of all."""
    kept = pairs.shown | (not shown)
    found = Estimates(*(frame[kept].set_axis(list(map(metric_name, pairs.metrics)), axis=1) for frame in pairs.found))
    bold = (pairs.corrected[kept] < 1 - LEVEL).set_axis(found.mean.columns, axis=1)
    note = (
        f"mean ± 95 % t-interval of the difference over common {pairs.units}, in percentage points, each interval by "
        f"itself; bold where the paired t-test, corrected by Holm for {counted(pairs.family, 'pair')}, metric by "
        "metric, finds p < 0.05"
    )
    kinds: list[Kind] = ["points"] * len(pairs.metrics)
    blocks = [part for part, keep in zip(pairs.parts, kept, strict=True) if keep]
    return Table("Paired differences", pairs.texts[kept], found, kinds, blocks, note, bold)


def decisions(pairs: Pairs, shown: bool = True) -> Table:
    """How sure each difference is, a line a metric, and how many seeds it would take to see smaller ones."""
    chosen = np.array([metric in _TESTED or not shown for metric in pairs.metrics], bool)
    lines = (pairs.shown | (not shown)).to_numpy()[:, None] & chosen & pairs.found.mean.notna().to_numpy()
    rows, places = lines.nonzero()
    mean, half, n, spread, p, corrected = (
        frame.to_numpy()[rows, places] for frame in (*pairs.found, spread_of(pairs.found), pairs.p, pairs.corrected)
    )
    name = "difference ± interval"
    columns = {
        name: mean, "spread": spread, "p": p, "p, Holm": corrected,
        "p, sign flips": [sign_flips(pairs.differences[i, :, j]) for i, j in zip(rows, places, strict=True)],
        **{f"{pairs.units} to see {100 * points:g}": needed(spread, points) for points in _POINTS},
    }  # fmt: skip
    texts = pairs.texts.iloc[rows].reset_index(drop=True)
    texts.insert(1, "metric", [metric_name(pairs.metrics[place]) for place in places])
    texts[pairs.units] = list(map(independent, n, pairs.as_headed[rows]))
    halves = pd.DataFrame({name: half}).reindex(columns=[*columns])
    found = Estimates(pd.DataFrame(columns, dtype=float), halves, pd.DataFrame(dict.fromkeys(columns, n)))
    bold = pd.DataFrame({name: corrected < 1 - LEVEL}).reindex(columns=[*columns], fill_value=False)
    averaged = " of the means over a fold's runs, a fold counting once" if pairs.units == "folds" else ""
    note = (
        f"p: of the two-sided paired t-test{averaged}; Holm: corrected for {counted(pairs.family, 'pair')}, metric by "
        "metric, which decides (bold); sign flips: the exact test, whatever the distribution; spread: standard "
        f"deviation of the differences, in points; {pairs.units} to see: how many show a true difference of so many "
        "points with 80 % power at a two-sided 5 %, by one test, at that spread"
    )
    kinds: list[Kind] = ["points", "percent", "p", "p", "exact p", "count", "count"]
    return Table("Whether the differences hold", texts, found, kinds, rows.tolist(), note, bold)


def _differences(
    comparison: Comparison, pairs: Sequence[tuple[int, int]], metrics: Sequence[str]
) -> tuple[FloatArray, Estimates]:
    """(pairs, units, metrics), the first row minus the second; and estimates, NaN of fewer than two common units."""
    runs, places = comparison.runs, [f"{comparison.stage}/{metric}" for metric in metrics]
    every = pd.MultiIndex.from_product([comparison.rows.index, range(runs["repeat"].max() + 1)])
    values = comparison.values[places].set_axis(pd.MultiIndex.from_frame(runs[["row", "repeat"]])).reindex(every)
    by_repeat = values.to_numpy().reshape(len(comparison.rows), -1, len(places))
    first, second = np.array(pairs, int).reshape(-1, 2).T
    flat = pd.DataFrame((by_repeat[first] - by_repeat[second]).reshape(-1, len(places)), columns=list(metrics))
    units = runs.drop_duplicates("repeat").set_index("repeat")["unit"].sort_index()
    pair = np.repeat(np.arange(len(pairs)), len(units))
    by_unit = flat.groupby([pair, np.tile(units, len(pairs))]).mean()
    found = estimate(by_unit, by_unit.index.get_level_values(0))
    shape = (len(pairs), units.nunique(), len(places))
    return by_unit.to_numpy().reshape(shape), Estimates(*(frame.where(found.n > 1) for frame in found))


def _pairs_in(comparison: Comparison, block: Sequence[int], most: int) -> list[tuple[int, int]]:
    """All pairs of few rows, the later minus the earlier; of many, each against the best, and forms of one loss."""
    every = [(second, first) for first, second in combinations(block, 2)]
    if len(block) <= most:
        return every
    best = max(block, key=comparison.scores.__getitem__)
    forms = comparison.rows[LOSS].str.extract(r"^(.*?) \(", expand=False)
    alike = [pair for pair in every if best not in pair and forms[pair[0]] == forms[pair[1]]]
    return [*((row, best) for row in block if row != best), *alike]
