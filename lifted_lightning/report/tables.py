"""What the report's tables hold."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lifted_lightning.report.compare import LOSS, Comparison, Estimates, commit_of, estimate, show, words
from lifted_lightning.report.formats import ENOUGH, FEW, NONE, Kind, Table
from lifted_lightning.report.protocol import published_numbers
from lifted_lightning.report.read import printable
from lifted_lightning.runs.settings import flatten, is_ours

_NAMES = {"r_precision": "R-precision", "map@r": "MAP@R", "nmi": "NMI", "ami": "AMI", "f1": "F1"}
_LATER = ("r_precision", "ami")  # metrics that the second table shows
_BATCH = ("active_share", "positive_distance", "negative_distance", "norm_mean", "effective_rank")
ALL_PAIRS = 4  # rows of which each pair is compared; of more, each with the best
MOST_PAIRS = 30  # rows of which each pair is in differences.csv


class Quantity(NamedTuple):
    """A column of numbers: its heading, how they are written, and where they stand among the runs' values."""

    name: str
    kind: Kind
    value: str


def metric_name(metric: str) -> str:
    """As papers write it: R@1, MAP@R, NMI."""
    return _NAMES.get(metric, metric.replace("recall@", "R@"))


def results(comparison: Comparison) -> Table:
    """The main table: each row's metrics, with the best of each block in bold, below the baselines."""
    note = "mean ± 95 % t-interval over seeds, in percent; the best of each block in bold"
    classes = "unseen test classes" if comparison.stage == "test" else "validation classes"
    data = ", ".join(sorted(set(map(str, comparison.rows["dataset"]))))
    return _of_rows(comparison, f"{data}: {classes}", _metrics(comparison, main=True), note, main=True)


def further(comparison: Comparison) -> Table:
    """The second table: the other metrics, and what the runs took."""
    own = "" if all(map(is_ours, comparison.metrics)) else " but for those of one's own"
    note = f"metrics in percent{own}; validation: of the selected step, on validation classes"
    return _of_rows(comparison, "Further metrics, and what the runs took", _further(comparison), note)


def everything(comparison: Comparison) -> Table:
    """All columns of the first two tables."""
    return _of_rows(comparison, "", [*_metrics(comparison, main=True), *_further(comparison)], "", main=True)


def diagnostics(comparison: Comparison) -> Table:
    """What the batches looked like at the end of training."""
    quantities = [Quantity(name.replace("_", " "), "number", f"batch/{name}") for name in _BATCH]
    note = (
        "means over the training batches logged since the last validation but one; active share: of the pairs or "
        "triplets, those that the loss still acts on"
    )
    return _of_rows(comparison, "Batches at the end of training", quantities, note)


def costs(comparison: Comparison) -> Table:
    """What the runs of each row ran on, and what they took: time, memory, parameters, multiply-adds."""
    quantities = [
        *(Quantity(f"{part}, {unit}-s", "number", f"cost.{part}.{unit.lower()}_seconds")
          for unit in ("core", "GPU") for part in ("fit", "evaluation")),
        Quantity("memory, MB", "millions", "cost.fit.peak_resident_bytes"),
        Quantity("GPU memory, MB", "millions", "cost.fit.peak_gpu_bytes"),
        Quantity("parameters, M", "millions", "cost.parameters.all"),
        Quantity("trained, M", "millions", "cost.parameters.trained"),
        Quantity("multiply-adds, M", "millions", "cost.multiply_adds"),
        Quantity("images seen", "number", "cost.fit.images"),
    ]  # fmt: skip
    most = comparison.values.reindex(columns=[q.value for q in quantities]).max()
    quantities = [q for q in quantities if "GPU" not in q.name or most[q.value] > 0]
    note = (
        "means over seeds; core-seconds: time that processors worked, over all ranks; GPU-seconds: wall time times "
        "GPUs; memory: the most while training, over all ranks; multiply-adds: to embed an image of the evaluation"
    )
    return _with_texts(comparison, _of_rows(comparison, "What the runs cost", quantities, note), _machine)


def provenance(comparison: Comparison) -> Table:
    """How each row's checkpoints were selected, how often validation and test were looked at, and of which commit."""
    looked = {"looks at validation": "selection.looks", "looks at test": "test_looks", "tuning trials": "tuning_trials"}
    note = (
        "looks at validation: while training; looks at test: evaluations of these test classes with a run's "
        "checkpoints; tuning trials: behind the configuration, where a sweep has told"
    )
    quantities = [Quantity(name, "number", value) for name, value in looked.items()]
    return _with_texts(comparison, _of_rows(comparison, "How the runs came about", quantities, note), _origin)


def _with_texts(comparison: Comparison, table: Table, told: Callable[[dict[str, Any]], dict[str, Any]]) -> Table:
    """The table, with what the runs of a row tell as texts: all that is different, where they do not agree."""
    found: dict[str, dict[int, set[str]]] = {}
    for row, result in zip(comparison.runs["row"], comparison.runs["result"], strict=True):
        for name, text in told(result).items():
            found.setdefault(name, {}).setdefault(row, set()).update({printable(str(text))} if text else ())
    for name, of_row in found.items():
        table.texts[name] = ["; ".join(sorted(of_row[row])) or NONE for row in table.texts.index]
    return table


def _machine(result: dict[str, Any]) -> dict[str, Any]:
    flat = flatten({"cost": result.get("cost")})
    devices, precision = (
        flat.get(f"cost.fit.{key}") or flat.get(f"cost.evaluation.{key}") for key in ("devices", "precision")
    )
    kinds = [d for d in devices if isinstance(d, dict)] if isinstance(devices, list) else []
    return {
        "device": ", then ".join(f"{kind.get('count')} × {kind.get('name')}" for kind in kinds),
        "precision": precision,
    }


def _origin(result: dict[str, Any]) -> dict[str, Any]:
    flat = flatten({"selection": result.get("selection")})
    by = "none: the last" if flat.get("selection.split") == "none" else flat.get("selection.metric")
    return {"selected by": by, "commit": commit_of(result)}


def _metrics(comparison: Comparison, main: bool) -> list[Quantity]:
    """Our main metrics, or the others: some of ours, and those of one's own, of which nobody knows what is better."""
    names = [m for m in comparison.metrics if (is_ours(m) and m not in _LATER) == main]
    return [Quantity(metric_name(m), "percent" if is_ours(m) else "number", f"{comparison.stage}/{m}") for m in names]


def _further(comparison: Comparison) -> list[Quantity]:
    chosen = ("recall@1", "map@r") if comparison.stage == "test" else ()
    return [
        *_metrics(comparison, main=False),
        *(Quantity(f"validation {metric_name(metric)}", "percent", f"validation/{metric}") for metric in chosen),
        *(Quantity(value.replace("_", " "), "number", value) for value in ("steps", "selected_step")),
        Quantity("training, s", "number", "seconds"),
    ]


def _of_rows(of: Comparison, title: str, quantities: list[Quantity], note: str, main: bool = False) -> Table:
    """These numbers of each row, less those that none has; the main table has baselines and bold numbers."""
    means = of.estimates.mean
    quantities = [q for q in quantities if q.value in means and means[q.value].notna().any()]
    places = [q.value for q in quantities]
    block = of.block_of(of.context if len(of.losses) > 1 else ["dataset"]).sort_values(kind="stable")
    texts = of.rows.loc[block.index, of.columns].map(show)
    texts["seeds"] = of.runs.groupby("row").size().map(_seeds)
    found = Estimates(*(frame.loc[block.index, places] for frame in of.estimates))
    best = found.mean == found.mean.groupby(block).transform("max")
    bold = best.mul(block.map(block.value_counts()) > 1, axis=0) & main
    if main:
        named, values = _baselines(of, places)
        above = Estimates(values, values * np.nan, values.notna().astype(int))
        texts = pd.concat([named.reindex(columns=texts.columns), texts]).fillna(NONE)
        found = Estimates(*(pd.concat([a, b]) for a, b in zip(above, found, strict=True)))
        bold = pd.concat([values.notna() & False, bold])
        block = pd.concat([pd.Series(-1, values.index), block])
    rules = np.flatnonzero(np.diff(block)) + 1
    found = Estimates(*(frame.set_axis([q.name for q in quantities], axis=1) for frame in found))
    texts = texts.set_axis([words(column) for column in texts], axis=1)
    return Table(title, texts, found, [q.kind for q in quantities], bold, rules.tolist(), note)


def _baselines(comparison: Comparison, places: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The texts and values of each baseline that differs from the others, and of papers of the runs' protocol."""
    found: dict[str, tuple[dict[str, str], dict[str, float]]] = {}
    for _, run in comparison.runs.drop_duplicates("row").sort_values("row").iterrows():
        values = {f"{comparison.stage}/{name}": value for name, value in (run["result"].get("baseline") or {}).items()}
        numbers = {place: float(v) for place in places if isinstance(v := values.get(place), int | float)}
        name = printable(str(run["result"].get("baseline_name") or "baseline"))
        name += " (unit length)" if run["result"].get("baseline_unit_length") else ""
        texts = {LOSS: name, "dataset": show(comparison.rows["dataset"][run["row"]])}
        if numbers:
            found.setdefault(f"{texts} {[round(v, 3) for v in numbers.values()]}", (texts, numbers))
    for line in published_numbers(comparison) if comparison.stage == "test" else ():
        if not line.differs:
            texts = {LOSS: f"{line.loss} ({line.told['source']})", "dataset": show(line.dataset)}
            found[str(texts)] = texts, {f"test/{name}": value for name, value in line.numbers.items()}
    named, numbers_of = ([part[i] for part in found.values()] for i in (0, 1))
    return pd.DataFrame(named), pd.DataFrame(numbers_of, columns=places, dtype=float)


def paired(comparison: Comparison, most: int = ALL_PAIRS) -> Table:
    """Differences between rows that are alike in all columns but one, seed by seed over the seeds that both have.

    Args:
        comparison: the rows.
        most: rows of which each pair is compared; of more, each with the best.
    """
    rows, context = comparison.rows, comparison.context
    pairs = [
        (column, block, *pair)
        for column in [LOSS, *(c for c in context if c not in ("dataset", "embedding_size"))]
        for block in comparison.blocks([c for c in [LOSS, *context] if c != column])
        for pair in _pairs(comparison, block, most)
    ]
    quantities = _metrics(comparison, main=True)
    found = _differences(comparison, [(first, second) for *_, first, second in pairs], [q.value for q in quantities])
    kept = found.mean.notna().any(axis=1)
    pairs = [pair for pair, keep in zip(pairs, kept, strict=True) if keep]
    found = Estimates(*(frame[kept].set_axis([q.name for q in quantities], axis=1) for frame in found))
    texts = []
    for column, _, first, second in pairs:
        what = " − ".join(show(rows[column][row]) for row in (first, second))
        name = what if column == LOSS else f"{rows[LOSS][first]}: {words(column)} {what}"
        texts.append([name, *(NONE if c == column else show(rows[c][first]) for c in context)])
    table = pd.DataFrame(texts, columns=["difference", *map(words, context)], index=found.n.index)
    table["seeds"] = found.n.min(axis=1).map(_seeds)
    rules = [i for i in range(1, len(pairs)) if pairs[i][:2] != pairs[i - 1][:2]]
    note = (
        "mean ± 95 % t-interval of the difference over common seeds, in percentage points; bold where the interval "
        "excludes 0; each interval by itself, not corrected for their number"
    )
    bold = (found.half > 0) & (found.mean.abs() > found.half)  # seeds that agree to the digit show no spread to trust
    return Table("Paired differences", table, found, ["points"] * len(quantities), bold, rules, note)


def _differences(comparison: Comparison, pairs: Sequence[tuple[int, int]], places: Sequence[str]) -> Estimates:
    """For each pair the first row minus the second; NaN where they have fewer than two seeds in common."""
    runs = comparison.runs
    every = pd.MultiIndex.from_product([comparison.rows.index, runs["seed"].unique()])
    values = comparison.values[list(places)].set_axis(pd.MultiIndex.from_frame(runs[["row", "seed"]])).reindex(every)
    by_seed = values.to_numpy().reshape(len(comparison.rows), -1, len(places))
    first, second = np.array(pairs, int).reshape(-1, 2).T
    differences = by_seed[first] - by_seed[second]  # (pairs, seeds, places)
    flat = pd.DataFrame(differences.reshape(-1, len(places)), columns=list(places))
    found = estimate(flat, np.repeat(np.arange(len(pairs)), differences.shape[1]))
    return Estimates(*(frame.where(found.n > 1) for frame in found))


def _pairs(comparison: Comparison, block: Sequence[int], most: int) -> list[tuple[int, int]]:
    """All pairs of few rows, the later minus the earlier; of many, each against the best, and forms of one loss."""
    seeds = comparison.runs.groupby("row").size()
    block = [row for row in block if seeds[row] > 1]
    every = [(second, first) for first, second in combinations(block, 2)]
    if len(block) <= most:
        return every
    best = max(block, key=comparison.scores.__getitem__)
    forms = comparison.rows[LOSS].str.extract(r"^(.*?) \(", expand=False)
    alike = [pair for pair in every if best not in pair and forms[pair[0]] == forms[pair[1]]]
    return [*((row, best) for row in block if row != best), *alike]


def published(comparison: Comparison) -> Table:
    """What papers report for the data sets that are here, and in what they differ from the runs."""
    found = list(published_numbers(comparison))
    mean = pd.DataFrame([line.numbers for line in found], columns=comparison.metrics, dtype=float)
    mean = mean.dropna(axis=1, how="all").rename(columns=metric_name)
    keys = ("embedding_size", "trunk", "pretraining", "size", "crop", "seeds", "selection", "source")
    told = [[str(line.told.get(key, "not told")) for key in keys] for line in found]
    texts = [[line.dataset, line.loss, *about, line.differs] for line, about in zip(found, told, strict=True)]
    names = pd.DataFrame(texts, columns=["data set", "loss", *map(words, keys), "differs from the runs in"])
    kinds: list[Kind] = ["percent"] * mean.shape[1]
    rules = [i for i in range(1, len(found)) if found[i].told is not found[i - 1].told]
    note = "in percent; what differs in nothing stands beside the runs, in their table"
    numbers = Estimates(mean, mean * np.nan, mean.notna().astype(int))
    return Table("Published numbers", names, numbers, kinds, mean.notna() & False, rules, note)


def _seeds(n: float) -> str:
    return f"{n:.0f}{FEW if n < ENOUGH else ''}"
