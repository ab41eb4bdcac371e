"""What the report's tables hold."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from lifted_lightning.report.compare import LOSS, Comparison, commit_of, show, words
from lifted_lightning.report.formats import ENOUGH, FEW, NONE, Kind, Table
from lifted_lightning.report.protocol import published_numbers
from lifted_lightning.report.read import printable
from lifted_lightning.report.statistics import Estimates, estimate
from lifted_lightning.runs.folder import MEMBERS
from lifted_lightning.runs.settings import flatten, is_ours

_NAMES = {"r_precision": "R-precision", "map@r": "MAP@R", "nmi": "NMI", "ami": "AMI", "f1": "F1"}
_LATER = ("r_precision", "ami")  # metrics that the second table shows
_BATCH = ("active_share", "positive_distance", "negative_distance", "norm_mean", "effective_rank")
DIFFERS = "differs in"


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
    note = f"mean ± 95 % t-interval over {comparison.units}, in percent; the best of each block in bold"
    note += f"; {DIFFERS}: not comparable in these, see the notes" if comparison.unlike else ""
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
        f"means over {comparison.units}; core-seconds: time that processors worked, over all ranks; GPU-seconds: wall "
        "time times GPUs; memory: the most while training, over all ranks; multiply-adds: to embed an image of the "
        "evaluation"
    )
    return _with_texts(comparison, _of_rows(comparison, "What the runs cost", quantities, note), _machine)


def provenance(comparison: Comparison) -> Table:
    """How each row's checkpoints were selected, how often validation and test were looked at, and of which commit."""
    looked = {"looks at validation": "selection.looks", "looks at test": "test_looks", "tuning trials": "tuning_trials"}
    note = (
        "looks at validation: while training; looks at test: evaluations of these test classes with a run's "
        "checkpoints; tuning trials: behind the configuration, where a sweep has told"
    )
    quantities = [Quantity(name, "times", value) for name, value in looked.items()]
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


def main_metrics(comparison: Comparison) -> list[str]:
    """Our metrics that the main table has."""
    return [metric for metric in comparison.metrics if is_ours(metric) and metric not in _LATER]


def _metrics(comparison: Comparison, main: bool) -> list[Quantity]:
    """Our main metrics, or the others: some of ours, and those of one's own, of which nobody knows what is better."""
    names = [m for m in comparison.metrics if (m in main_metrics(comparison)) == main]
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
    count = of.runs.groupby("row")["unit"].nunique()[texts.index]
    texts[of.units] = list(map(independent, count, of.as_headed[texts.index]))
    if of.units == "folds":
        texts["runs"] = of.runs.groupby("row").size().map(str)
    if main and of.unlike:
        texts[DIFFERS] = [", ".join(of.unlike.get(row, ())) or NONE for row in texts.index]
    found = Estimates(*(frame.loc[block.index, places] for frame in of.estimates))
    best = found.mean == found.mean.groupby(block).transform("max")
    bold = best.mul(block.map(block.value_counts()) > 1, axis=0) & main
    if main:
        named, values = _baselines(of, places)
        above = Estimates(values, values * np.nan, values.notna().astype(int))
        texts = pd.concat([named.reindex(columns=texts.columns), texts]).fillna(NONE)
        found = Estimates(*(pd.concat([a, b]) for a, b in zip(above, found, strict=True)))
        bold = pd.concat([values.notna() & False, bold])
    blocks = [-1] * (len(texts) - len(block)) + block.tolist()
    found = Estimates(*(frame.set_axis([q.name for q in quantities], axis=1) for frame in found))
    texts = texts.set_axis(list(map(words, texts)), axis=1)
    return Table(title, texts, found, [q.kind for q in quantities], blocks, note, bold)


def _baselines(comparison: Comparison, places: Sequence[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The texts and values of each baseline that differs from the others, and of papers of the runs' protocol."""
    found, here = dict[str, tuple[dict[str, str], dict[str, float]]](), comparison.stage
    rows_of, namesakes = dict[str, list[int]](), dict[str, list[str]]()
    for row, results in comparison.runs.groupby("row")["result"]:
        told = [run for run in results if run.get("baseline")]
        values = [  # each of its run's stage, and of the classes of its fold
            {f"{run.get('stage', here)}/{name}": v for name, v in run["baseline"].items() if isinstance(v, int | float)}
            for run in told
        ]
        numbers = pd.DataFrame(values, columns=places, dtype=float).mean().dropna().to_dict()
        if numbers:
            name = printable(str(told[0].get("baseline_name") or "baseline"))
            name += " (unit length)" if told[0].get("baseline_unit_length") else ""
            texts = {LOSS: name, "dataset": show(comparison.rows["dataset"][row])}
            key = f"{texts} {[round(v, 3) for v in numbers.values()]}"
            if key not in found:
                found[key] = texts, numbers
                namesakes.setdefault(str(texts), []).append(key)
            rows_of.setdefault(key, []).append(row)
    for keys in namesakes.values():  # of one name: what they come from, where that tells them apart
        for column in comparison.context if len(keys) > 1 else ():
            shown = {key: set(comparison.rows.loc[rows_of[key], column].map(show)) for key in keys}
            if column.startswith(("model.network.", "data.")) and len(set[str]().union(*shown.values())) > 1:
                for key, (value, *others) in shown.items():
                    found[key][0][column] = NONE if others else value
    for line in published_numbers(comparison) if comparison.stage == "test" else ():
        if not line.differs:
            texts = {LOSS: f"{line.loss} ({line.told['source']})", "dataset": show(line.dataset)}
            found[str(texts)] = texts, {f"test/{name}": value for name, value in line.numbers.items()}
    named, numbers_of = ([part[i] for part in found.values()] for i in (0, 1))
    return pd.DataFrame(named), pd.DataFrame(numbers_of, columns=places, dtype=float)


def ensembles(comparison: Comparison, results: Sequence[tuple[Path, Mapping[str, Any]]]) -> Table:
    """The models of each row on the test classes, each alone, and with their embeddings concatenated.

    Args:
        comparison: the rows.
        results: of each evaluation the folder of a run whose model took part, and its ``result.json``.
    """
    about, levels = comparison.runs.set_index("folder")[["row", "unit"]], ["row", "models", "size"]
    keys, metrics = list[tuple[int, ...]](), list[Mapping[str, float]]()
    for i, (folder, result) in enumerate(results):
        if folder in about.index:
            (row, unit), models = about.loc[folder], len(result[MEMBERS])
            keys.append((row, models, result["embedding_size"], unit if models == 1 else i))
            metrics.append(result["test"])
    values = pd.DataFrame(metrics, columns=list(filter(is_ours, comparison.metrics)), dtype=float)
    values = values.dropna(axis=1, how="all").rename(columns=metric_name)
    index = pd.MultiIndex.from_tuples(keys, names=[*levels, "unit"])
    by_unit = values.set_axis(index).groupby(index.names).mean()
    found, n = estimate(by_unit, levels), by_unit.groupby(levels).size().reset_index(name="n")
    texts = comparison.rows.loc[n["row"], comparison.columns].map(show)
    texts = texts.set_axis(list(map(words, texts)), axis=1).reset_index(drop=True)
    alone = n["models"] == 1
    texts["embeddings"] = n["size"].map("{}-d, ".format) + alone.map({True: "each alone", False: "concatenated"})
    together = n["n"].map("{} × ".format).where(n["n"] > 1, "") + n["models"].map("{} models".format)
    units = n["row"].map(comparison.as_headed).map({True: comparison.units, False: "seeds"})
    texts["of"] = (n["n"].map(str) + " " + units).where(alone, together)
    found = Estimates(*(frame.reset_index(drop=True) for frame in found))
    note = (
        "mean ± 95 % t-interval, in percent, from the runs' selected checkpoints; concatenated: an image's embeddings "
        "by all models, each scaled to unit length, one after the other"
    )
    kinds: list[Kind] = ["percent"] * found.mean.shape[1]
    return Table("Models alone and together, unseen test classes", texts, found, kinds, n["row"].tolist(), note)


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
    note = "in percent; what differs in nothing stands beside the runs, in their table"
    numbers = Estimates(mean, mean * np.nan, mean.notna().astype(int))
    return Table("Published numbers", names, numbers, kinds, [line.told for line in found], note)


def independent(n: float, as_headed: bool = True) -> str:
    """A number of seeds or folds, marked if there are few; of seeds in a column of folds it says so."""
    return f"{n:.0f}{'' if as_headed else ' seeds'}{FEW if n < ENOUGH else ''}"
