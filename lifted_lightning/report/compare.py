"""Groups runs into rows by everything but the seed, names the rows, and names what differs among the runs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from lifted_lightning.errors import UserError, did_you_mean, listed
from lifted_lightning.report.protocol import ALIKE, alike_in
from lifted_lightning.report.read import Runs, printable
from lifted_lightning.report.statistics import Estimates, estimate
from lifted_lightning.runs.settings import metrics_in_order

LOSS, CLASS, ARGUMENTS = "loss", "model.loss.class_path", "model.loss.init_args."
UNTRAINED = "untrained network"
PAPER_LOSSES = ("Contrastive", "Triplet", "LiftedStructure")  # in the order of its tables
_FIRST = ("dataset", "embedding_size")
# Runs that are compared should agree in these, unless they are what is asked for.
_ALIKE = ("dataset", "data.validation_share", "data.split_seed")
_CHANGED = " with uncommitted changes"


@dataclass(frozen=True)
class Comparison:
    """What the report shows.

    Attributes:
        runs: what is known of each run (the part ``run`` of :class:`Runs`); ``row``, the number of its row; ``repeat``,
            equal for runs of one seed and fold; and ``unit``, of the fold where there are folds, else of the seed.
        values: the numbers of each run (the part ``value``).
        rows: the settings that the runs of a row share, and ``loss``, its label; in order, numbered from 0.
        columns: the settings that tell the rows apart, the loss first.
        stage: whose metrics: ``test`` or ``validation``.
        metrics: names of those that any run has, in order.
        protocol: how each run came about, where it should be like the others (``protocol.ALIKE``); texts, None for what
            does not apply. Without what was asked for as a column.
        units: what is independent, and counted: ``folds``, or ``seeds`` where there are none.
        notes: lines on what was left out, and on what differs among the runs.
    """

    runs: pd.DataFrame
    values: pd.DataFrame
    rows: pd.DataFrame
    columns: list[str]
    stage: str
    metrics: list[str]
    protocol: pd.DataFrame
    units: str
    notes: list[str]

    @cached_property
    def estimates(self) -> Estimates:
        """Mean and interval of every number of the runs, over the seeds of a row, or over its folds' means."""
        by_unit = self.values.groupby([self.runs["row"], self.runs["unit"]]).mean()
        return estimate(by_unit, by_unit.index.get_level_values("row"))

    @cached_property
    def as_headed(self) -> pd.Series:
        """Of each row whether what it counts is what ``units`` says; a row without folds, beside some, counts seeds."""
        return (self.runs.groupby("row")["fold"].nunique() > 0) | (self.units == "seeds")

    @cached_property
    def row_protocol(self) -> pd.DataFrame:
        """The protocol of each row: a text, of the values of all its runs; None for what does not apply."""
        return self.protocol.groupby(self.runs["row"]).agg(lambda told: ", ".join(sorted({*told.dropna()})) or None)

    @cached_property
    def unlike(self) -> dict[int, list[str]]:
        """Of each row that is not comparable with the others of its data set, in what: where it is not as most are."""
        found: dict[int, list[str]] = {}
        for key, told in self.row_protocol.items():
            for _, texts in told.dropna().groupby(self.rows["dataset"].map(repr)):
                counts = texts.value_counts()
                common = counts.index[0] if 2 * counts.iloc[0] > len(texts) else None
                for row in texts.index[texts != common] if len(counts) > 1 else ():
                    found.setdefault(row, []).append(words(key))
        return found

    def unlike_pair(self, first: int, second: int, column: str) -> list[str]:
        """In what two rows are not comparable, besides in the column by which they are compared."""
        one, other = (self.row_protocol.loc[row] for row in (first, second))
        keys = [key for key in self.row_protocol if short(column) not in ALIKE[key]]
        return [words(k) for k in keys if pd.notna(one[k]) and pd.notna(other[k]) and one[k] != other[k]]

    @cached_property
    def scores(self) -> dict[int, float]:
        """Each row's Recall@1, which says which rows are the best."""
        return self.estimates.mean.reindex(columns=[f"{self.stage}/recall@1"]).iloc[:, 0].fillna(0.0).to_dict()

    @cached_property
    def context(self) -> list[str]:
        """The columns beside the loss in which the rows differ."""
        return [c for c in self.columns if c != LOSS and self.rows[c].map(repr).nunique() > 1]

    @cached_property
    def losses(self) -> list[str]:
        """The labels of the losses, in order."""
        return sorted(set(self.rows[LOSS]), key=_place_of_loss)

    def block_of(self, columns: Sequence[str]) -> pd.Series:
        """A number for each row, the same for rows that agree in these columns."""
        values = self.rows[list(columns)].to_numpy().tolist()
        return pd.Series(pd.factorize(pd.Series(map(repr, values)))[0], self.rows.index)

    def blocks(self, columns: Sequence[str]) -> list[list[int]]:
        """The numbers of the rows that agree in these columns."""
        return [list(rows) for rows in self.rows.groupby(self.block_of(columns)).groups.values()]

    def title(self, row: int, columns: Sequence[str] | None = None) -> str:
        """A row's name: its loss, and what else it differs in; or these columns alone."""
        keys = [LOSS, *self.context] if columns is None else columns
        told = {key: show(self.rows.at[row, key]) for key in keys}
        return ", ".join(text if key in (LOSS, "dataset") else f"{words(key)} {text}" for key, text in told.items())


def compare(found: Runs, by: Sequence[str]) -> Comparison:
    """Group runs into rows, find the columns that tell the rows apart, and name what differs.

    Args:
        found: the runs.
        by: the columns asked for; others are added where rows would be the same without.

    Raises:
        UserError: for a column that no run has.
    """
    runs, settings = found.frame["run"], found.frame["setting"]
    asked = [setting_named(key, list(settings)) for key in by]
    rows = settings[~runs["same"].duplicated()].set_axis(runs["same"].unique())
    rows.insert(0, LOSS, _loss_labels(rows, asked))
    columns = [LOSS, *(key for key in asked if key != LOSS)]
    # Rows of two data sets are never compared, even where each loss has one of its own.
    columns += ["dataset"] * ("dataset" not in columns and rows["dataset"].map(repr).nunique() > 1)
    keys = dict.fromkeys([*_FIRST, *(key for key in rows if key not in (LOSS, CLASS))])
    columns += (added := _telling_apart(rows, list(keys), columns))
    places = [(*map(_sortable, row[1:]), _place_of_loss(row[0])) for row in rows[columns].itertuples(index=False)]
    order = [same for _, same in sorted(zip(places, rows.index, strict=True))]
    runs = runs.assign(row=runs["same"].map({same: i for i, same in enumerate(order)}))
    folded = bool((runs.groupby("row")["fold"].nunique() > 1).any())
    split = settings.reindex(columns=["data.folds", "data.split_seed"]).map(repr).agg(" ".join, axis=1)
    seeds, fold = runs["seed"].map(repr), runs["fold"].map(repr) + " of " + split  # those of another split are others
    fold = fold.where(runs["fold"].notna(), "")
    unit = fold.where((fold != "") & folded, seeds)
    runs = runs.assign(repeat=pd.factorize(fold + ", " + seeds)[0], unit=pd.factorize(unit)[0])
    values, start = found.frame["value"], f"{found.stage}/"
    metrics = metrics_in_order(name.removeprefix(start) for name in values if name.startswith(start))
    there = values[[start + metric for metric in metrics]].set_axis(metrics, axis=1).notna()
    names = set(map(short, asked))
    told = [alike_in(row, result) for row, result in zip(settings.to_dict("records"), runs["result"], strict=True)]
    protocol = pd.DataFrame(
        {key: [_text(of[key]) for of in told] for key in ALIKE if not names & {*ALIKE[key]}}, runs.index, dtype=object
    )
    notes = [*found.notes, *_lacking(there, runs), *_differing(runs, settings, protocol, asked)]
    if by and added:
        notes.append(f"rows with the same {', '.join(by)} differ in {', '.join(map(words, added))}, and are kept apart")
    units = "folds" if folded else "seeds"
    return Comparison(
        runs, values, rows.loc[order].reset_index(drop=True), columns, found.stage, metrics, protocol, units, notes
    )


def brought_along(comparison: Comparison) -> list[tuple[str, str]]:
    """For each loss the settings that differ among the rows and are no column, such as its learning rate.

    Where they differ within a loss too, there is a line for each of its rows.
    """
    trained = comparison.rows[comparison.rows[LOSS] != UNTRAINED]
    keys = [key for key in trained if key not in (*comparison.columns, CLASS) and trained[key].map(repr).nunique() > 1]
    lines: dict[str, str] = {}
    for loss, rows in trained.groupby(LOSS, sort=False):
        told = {
            comparison.title(i): ", ".join(f"{words(k)} {show(row[k])}" for k in keys if row[k] is not None)
            for i, row in rows.iterrows()
        }
        lines |= {loss: next(iter(told.values()))} if len(set(told.values())) == 1 else told
    return [(name, text) for name, text in lines.items() if text]


def short(key: str) -> str:
    """A setting's own name: ``lr`` for ``model.optimizer.init_args.lr``, ``optimizer`` for its class."""
    return key.removesuffix(".class_path").rsplit(".", 1)[-1]


def words(key: str) -> str:
    """A setting's own name as words."""
    return short(key).replace("_", " ")


def show(value: Any) -> str:
    """A setting's value: a class by its name, numbers in four digits."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str) and value.startswith("[{"):
        return _classes(value)
    if isinstance(value, str) and "." in value and " " not in value:
        last = value.rsplit(".", 1)[1]
        return last if last.isidentifier() else value
    return str(value)


def _classes(text: str) -> str:
    """Of JSON that is a list of classes, their names and what each was given but null; other text as it is."""
    try:
        parts = json.loads(text)
        if any(part.keys() - {"class_path", "init_args"} for part in parts):
            return text
        given = [{k: v for k, v in part.get("init_args", {}).items() if v is not None} for part in parts]
        names = [printable(part["class_path"].rsplit(".", 1)[-1]) for part in parts]
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return text
    return ", ".join(f"{name} {json.dumps(own)}" if own else name for name, own in zip(names, given, strict=True))


def setting_named(key: str, known: Sequence[str]) -> str:
    """The setting that ``--by`` means: its name in full, as `lifted fit` has it, or its end where only one has that."""
    if key == LOSS or key in known:
        return key
    given = key.replace(".init_args.", ".")
    ends = (f".{given}", f".{given}.class_path")
    found = [name for name in known if f".{name.replace('.init_args.', '.')}".endswith(ends)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"--by {key}: may be {listed(found)}; give more of the name")
    names = [LOSS, *map(short, known), *known]
    hint = did_you_mean(key, names, "give loss, embedding_size, dataset, or a setting of config.yaml")
    raise UserError(f"--by {key}: no run has such a setting; {hint}")


def _loss_labels(rows: pd.DataFrame, asked: Sequence[str]) -> list[str]:
    """A name for each row's loss: its class, and those arguments that tell it from others of the class."""
    paths = rows.get(CLASS, pd.Series(None, rows.index, dtype=object))
    labels = pd.Series(UNTRAINED, rows.index, dtype=object)
    names = {path: path.rsplit(".", 1)[-1] for path in paths.dropna().unique()}
    for path, name in names.items():
        own = rows[paths == path]
        # A word says more than a switch, and a switch more than a number, which may be tuned to it.
        keys = [key for key in own if key.startswith(ARGUMENTS) and key not in asked]
        kinds = {key: {type(value) for value in own[key]} for key in keys}
        keys.sort(key=lambda key: (str not in kinds[key], bool not in kinds[key], -own[key].nunique()))
        keys = _telling_apart(own, keys, [key for key in (*_FIRST, *asked) if key in own])
        homonym = list(names.values()).count(name) > 1 and not path.startswith("lifted_lightning.")
        package = [path.split(".")[0].replace("_", "-")] if homonym else []
        for same, row in own.iterrows():
            told = [*package, *(f"{short(key)}={show(row[key])}" for key in keys)]
            labels[same] = name.removesuffix("Loss") + (f" ({', '.join(told)})" if told else "")
    return list(labels)


def _telling_apart(rows: pd.DataFrame, keys: Iterable[str], given: Sequence[str]) -> list[str]:
    """The keys that tell rows apart which are alike in the keys given and in those chosen before."""
    chosen: list[str] = []
    texts = rows.map(repr)
    parts = [texts[key] for key in given]
    found = len(set(zip(*parts, strict=True))) if parts else 1
    for key in keys:
        if key not in given and found < (finer := len(set(zip(*parts, texts[key], strict=True)))):
            chosen, parts, found = [*chosen, key], [*parts, texts[key]], finer
    return chosen


def _sortable(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, show(value))


def _place_of_loss(label: str) -> tuple[int, str]:
    """The untrained network, the paper's losses in the paper's order, then the others."""
    if label == UNTRAINED:
        return (-1, label)
    order = [i for i, name in enumerate(PAPER_LOSSES) if label.startswith(name)]
    return (order[0] if order else len(PAPER_LOSSES), label)


def _lacking(there: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Lines on metrics that some runs of a row lack: their means are of fewer seeds."""
    lacking = there.groupby(runs["row"]).transform("any") & ~there
    return [
        f"without {metric}, so that its mean is of the others: {listed(runs['name'][without].tolist())}"
        for metric, without in lacking.items()
        if without.any()
    ]


def _text(told: Any) -> str | None:
    return told if told is None else printable(told if isinstance(told, str) else show(told))


def _differing(runs: pd.DataFrame, settings: pd.DataFrame, protocol: pd.DataFrame, asked: Sequence[str]) -> list[str]:
    """Lines on what differs among runs that should be alike in it."""
    results = runs["result"].tolist()
    versions = [result.get("versions") or {} for result in results]
    facts: dict[str, Iterable[Any]] = {words(key): protocol[key] for key in protocol}
    facts |= {key: settings[key] for key in _ALIKE if key not in asked and key in settings}
    facts |= {name: [v.get(name) for v in versions] for name in sorted({name for v in versions for name in v})}
    facts["git commit"] = map(commit_of, results)
    return [line for name, fact in facts.items() if (line := _difference(name, fact, runs["name"]))]


def _difference(name: str, fact: Iterable[Any], runs: Iterable[str]) -> str | None:
    having: dict[str, list[str]] = {}
    for value, run in zip(fact, runs, strict=True):
        if value is not None:
            having.setdefault(value if isinstance(value, str) else show(value), []).append(run)
    if len(having) < 2:
        return next((f"git commit {value} in all runs" for value in having if value.endswith(_CHANGED)), None)
    (common, most), *others = sorted(having.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f"{common} in {len(most)} runs", *(f"{value} in {listed(names)}" for value, names in others)]
    return printable(f"runs differ in {name}: {'; '.join(parts)}")


def commit_of(result: dict[str, Any]) -> str | None:
    """The commits that a run was made with, one after the other, and whether there were changes."""
    git = result.get("git") or {}
    states = [*(git.get("before") or []), *[git] * bool(git.get("commit"))]
    return ", then ".join(str(s["commit"])[:7] + _CHANGED * bool(s.get("changed")) for s in states) or None
