"""What the report's tables hold."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lifted_lightning.report.compare import LOSS, Comparison, Group, show, words
from lifted_lightning.report.published import NOT_COMPARABLE, PUBLISHED, follows_the_paper
from lifted_lightning.report.read import Run
from lifted_lightning.report.table import ENOUGH, NONE, Cell, Estimate, Kind, Table, paired_difference

NAMES = {"r_precision": "R-precision", "map@r": "MAP@R", "nmi": "NMI", "ami": "AMI", "f1": "F1"}
LATER = ("r_precision", "ami")  # metrics that the second table shows
BATCH = ("active_share", "positive_distance", "negative_distance", "norm_mean", "effective_rank")
ALL_PAIRS = 4  # rows of which each pair is compared; of more, each with the best
MOST_PAIRS = 30  # rows of which each pair is in differences.csv


@dataclass(frozen=True)
class Quantity:
    """A column of numbers: its heading, how they are written, and where they stand in ``result.json``."""

    name: str
    kind: Kind
    path: tuple[str, ...]

    def of(self, run: Run) -> Any:
        """The number, None where it is not there; of a list the last entry counts."""
        value: Any = run.result
        for key in self.path:
            value = value[-1] if isinstance(value, list) and value else value
            value = value.get(key) if isinstance(value, dict) else None
        return value


def metric_name(metric: str) -> str:
    """As papers write it: R@1, MAP@R, NMI."""
    return NAMES.get(metric, metric.replace("recall@", "R@"))


def results(comparison: Comparison) -> Table:
    """The main table: a row a group, with the best of each block in bold, below the baselines."""
    note = "mean ± 95 % t-interval over seeds, in percent; the best of each block in bold"
    classes = "unseen test classes" if comparison.stage == "test" else "validation classes"
    data = sorted({str(group.settings.get("dataset")) for group in comparison.groups})
    return _of_groups(comparison, f"{', '.join(data)}: {classes}", _metrics(comparison, main=True), note, main=True)


def further(comparison: Comparison) -> Table:
    """The second table: the other metrics, and what the runs took."""
    note = "metrics in percent; validation: of the selected step, on validation classes"
    quantities = [*_metrics(comparison, main=False), *_taken(comparison)]
    return _of_groups(comparison, "Further metrics, and what the runs took", quantities, note)


def everything(comparison: Comparison) -> Table:
    """All columns of the first two tables."""
    quantities = [*_metrics(comparison, main=True), *_metrics(comparison, main=False), *_taken(comparison)]
    return _of_groups(comparison, "", quantities, "", main=True)


def diagnostics(comparison: Comparison) -> Table:
    """What the batches looked like at the end of training."""
    quantities = [Quantity(name.replace("_", " "), "number", ("history", f"batch/{name}")) for name in BATCH]
    note = (
        "means over the training batches logged since the last validation but one; active share: of the pairs or "
        "triplets, those that the loss still acts on"
    )
    return _of_groups(comparison, "Batches at the end of training", quantities, note)


def _metrics(comparison: Comparison, main: bool) -> list[Quantity]:
    names = [metric for metric in comparison.metrics if (metric not in LATER) == main]
    return [Quantity(metric_name(metric), "percent", (comparison.stage, metric)) for metric in names]


def _taken(comparison: Comparison) -> list[Quantity]:
    chosen = ("recall@1", "map@r") if comparison.stage == "test" else ()
    return [
        *(Quantity(f"validation {metric_name(m)}", "percent", ("validation", m)) for m in chosen),
        Quantity("steps", "number", ("steps",)),
        Quantity("selected step", "number", ("selected_step",)),
        Quantity("training, s", "number", ("seconds", "fit")),
    ]


def _of_groups(
    comparison: Comparison, title: str, quantities: Sequence[Quantity], note: str, main: bool = False
) -> Table:
    """A row a group with these numbers, less those that none has; the main one has baselines and bold numbers."""
    estimates = {id(group): [group.over(quantity.of) for quantity in quantities] for group in comparison.groups}
    kept = [i for i in range(len(quantities)) if any(row[i] for row in estimates.values())]
    columns: list[tuple[str, Kind]] = [(words(column), "text") for column in comparison.columns]
    table = Table(title, [*columns, ("seeds", "text"), *((quantities[i].name, quantities[i].kind) for i in kept)])
    for name, group in _baselines(comparison) if main else ():
        texts = [show(group.settings.get(c)) if c == "dataset" else None for c in comparison.columns[1:]]
        values = [_baseline(group, quantities[i]) for i in kept]
        table.rows.append([Cell(name), *map(Cell, texts), Cell(None), *map(Cell, values)])
    for block in comparison.blocks(None if len(comparison.losses) > 1 else ["dataset"]):
        table.rules.add(len(table.rows))
        for group in block:
            cells = [Cell(show(group.settings.get(c))) for c in comparison.columns]
            row = estimates[id(group)]
            best = [_is_best(row[i], [estimates[id(g)][i] for g in block]) for i in kept]
            numbers = [Cell(row[i], main and bold) for i, bold in zip(kept, best, strict=True)]
            table.rows.append([*cells, Cell(_seeds(len(group.runs))), *numbers])
    return _finished(table, note) if kept else Table(title, [])


def _is_best(value: Estimate | None, of: Sequence[Estimate | None]) -> bool:
    return value is not None and len(of) > 1 and value.mean == max(other.mean for other in of if other)


def _baselines(comparison: Comparison) -> list[tuple[str, Group]]:
    """One group for each baseline that differs, which its runs share."""
    found: dict[tuple[str, str], tuple[str, Group]] = {}
    for group in comparison.groups:
        first = group.runs[0].result
        if first.get("baseline"):
            name = str(first.get("baseline_name") or "baseline")
            places = str({m: round(v, 3) for m, v in first["baseline"].items() if isinstance(v, float)})
            found.setdefault((str(group.settings.get("dataset")), name + places), (name, group))
    return list(found.values())


def _baseline(group: Group, quantity: Quantity) -> Estimate | None:
    value = group.runs[0].result["baseline"].get(quantity.path[-1]) if quantity.path[0] == group.stage else None
    return None if value is None else Estimate(value, None, 1)


def paired(comparison: Comparison, most: int = ALL_PAIRS) -> Table:
    """Differences between rows that are alike in all columns but one, seed by seed.

    Args:
        comparison: the rows.
        most: rows of which each pair is compared; of more, each with the best.
    """
    quantities = _metrics(comparison, main=True)
    context = comparison.context
    columns: list[tuple[str, Kind]] = [("difference", "text"), *((words(c), "text") for c in context)]
    numbers: list[tuple[str, Kind]] = [(quantity.name, "points") for quantity in quantities]
    table = Table("Paired differences", [*columns, ("seeds", "text"), *numbers])
    for column in [LOSS, *(c for c in context if c not in ("dataset", "embedding_size"))]:
        for block in comparison.blocks([c for c in [LOSS, *context] if c != column]):
            table.rules.add(len(table.rows))
            for first, second in _pairs([group for group in block if len(group.runs) > 1], most):
                pairs = [(first.by_seed(q.path[-1]), second.by_seed(q.path[-1])) for q in quantities]
                found = [paired_difference(*pair) for pair in pairs]
                values = [value if value and value.n > 1 else None for value in found]
                n = min((value.n for value in values if value), default=0)
                if n == 0:
                    continue
                what = " − ".join(show(group.settings.get(column)) for group in (first, second))
                name = what if column == LOSS else f"{first.loss}: {words(column)} {what}"
                where = [NONE if c == column else show(first.settings.get(c)) for c in context]
                cells = [Cell(value, bool(value and value.excludes_zero)) for value in values]
                table.rows.append([Cell(name), *map(Cell, where), Cell(_seeds(n)), *cells])
    note = (
        "mean ± 95 % t-interval of the difference over common seeds, in percentage points; bold where the interval "
        "excludes 0; each interval by itself, not corrected for their number"
    )
    return _finished(table, note)


def _pairs(block: Sequence[Group], most: int) -> list[tuple[Group, Group]]:
    """All pairs of few groups, the later minus the earlier; of many, each against the best, and forms of one loss."""
    every = [(second, first) for first, second in combinations(block, 2)]
    if len(block) <= most:
        return every
    best = max(block, key=lambda group: group.score)
    forms = [pair for pair in every if best not in pair and _form(pair[0]) == _form(pair[1]) != ""]
    return [*((group, best) for group in block if group is not best), *forms]


def _form(group: Group) -> str:
    """The class of a loss that is there in several forms."""
    return group.loss.partition(" (")[0] if " (" in group.loss else ""


def published(comparison: Comparison) -> Table:
    """What papers report for the data sets that are here."""
    sets = [name for name in PUBLISHED if any(g.settings.get("dataset") == name for g in comparison.groups)]
    rows = [(name, row) for name in sets for row in PUBLISHED[name]]
    names = [m for m in comparison.metrics if any(m in row.values for _, row in rows)]
    texts: list[tuple[str, Kind]] = [(t, "text") for t in ("data set", "loss", "embedding size", "source")]
    table = Table("Published numbers", [*texts, *((metric_name(m), "percent") for m in names)])
    for i, (name, row) in enumerate(rows):
        if i and (name, row.source) != (rows[i - 1][0], rows[i - 1][1].source):
            table.rules.add(i)
        how = "; read off a figure" if row.read_off else ""
        cells = [name, row.loss, str(row.embedding_size or "not told"), row.source + how]
        values = [row.values.get(m) for m in names]
        numbers = [Cell(None if v is None else Estimate(v / 100, None, 1)) for v in values]
        table.rows.append([*map(Cell, cells), *numbers])
    comparable = all(follows_the_paper(g.settings) for g in comparison.groups)
    table.notes = ["in percent" if comparable else f"in percent; {NOT_COMPARABLE}"]
    return table


def _seeds(n: int) -> str:
    return f"{n}{'†' if n < ENOUGH else ''}"


def _finished(table: Table, note: str) -> Table:
    few = any(isinstance(cell.value, str) and cell.value.endswith("†") for row in table.rows for cell in row)
    table.notes = [note, *([f"† fewer than {ENOUGH} seeds"] if few else [])]
    return table
