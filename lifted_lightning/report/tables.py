"""What the report's tables hold."""

from collections.abc import Callable, Sequence
from itertools import combinations

from lifted_lightning.report.compare import LOSS, Comparison, Group, short, show
from lifted_lightning.report.published import NOT_COMPARABLE, PUBLISHED, follows_the_paper
from lifted_lightning.report.statistics import ENOUGH, Estimate, paired_difference
from lifted_lightning.report.table import NONE, Cell, Kind, Table

NAMES = {"r_precision": "R-precision", "map@r": "MAP@R", "nmi": "NMI", "ami": "AMI", "f1": "F1"}
LATER = ("r_precision", "ami")  # metrics that the second table shows
ALL_PAIRS = 4  # rows of which each pair is compared; of more, each with the best
FEW = f"† fewer than {ENOUGH} seeds"


def metric_name(metric: str) -> str:
    """As papers write it: R@1, MAP@R, NMI."""
    return NAMES.get(metric, metric.replace("recall@", "R@"))


def main_metrics(comparison: Comparison) -> list[str]:
    """The metrics of the main table."""
    return [metric for metric in comparison.metrics if metric not in LATER]


# What the tables hold


def results(comparison: Comparison) -> Table:
    """The main table: a row a group, with the best of each block in bold, below the baselines."""
    names = main_metrics(comparison)
    table = _started(comparison, _title(comparison), [(metric_name(m), "percent") for m in names])
    for name, group in _baselines(comparison):
        cells = [
            Cell(name),
            *(
                Cell(show(group.settings.get(c))) if c == "dataset" else Cell(None)
                for c in comparison.columns[1:]
            ),
        ]
        values = [group.runs[0].result["baseline"].get(m) for m in names]
        table.rows.append(
            [*cells, Cell(None), *(Cell(None if v is None else Estimate(v, None, 1)) for v in values)]
        )
    for block in comparison.blocks(None if len(comparison.losses) > 1 else ["dataset"]):
        table.rules.add(len(table.rows))
        estimates = [[group.metric(m) for m in names] for group in block]
        best = [max((e[i].mean for e in estimates if e[i]), default=None) for i in range(len(names))]  # type: ignore[union-attr]
        for group, row in zip(block, estimates, strict=True):
            cells = [
                Cell(e, bool(e and len(block) > 1 and e.mean == top))
                for e, top in zip(row, best, strict=True)
            ]
            table.rows.append([*_heading(comparison, group), *cells])
    return _finished(table, "mean ± 95 % t-interval over seeds, in percent; the best of each block in bold")


def further(comparison: Comparison) -> Table:
    """The second table: the other metrics, and what the runs took."""
    later = [metric for metric in comparison.metrics if metric in LATER]
    extra: list[tuple[str, Kind, Callable[[Group], Estimate | None]]] = [
        *((metric_name(m), "percent", lambda g, m=m: g.metric(m)) for m in later),  # type: ignore[misc]
    ]
    if comparison.stage == "test":
        for metric in ("recall@1", "map@r"):
            extra.append(
                (
                    f"validation {metric_name(metric)}",
                    "percent",
                    lambda g, m=metric: g.over(lambda run: (run.result["validation"] or {}).get(m)),
                )
            )  # type: ignore[misc]
    extra += [
        ("steps", "number", lambda g: g.over(lambda run: run.result.get("steps"))),
        ("selected step", "number", lambda g: g.over(lambda run: run.result.get("selected_step"))),
        ("training, s", "number", lambda g: g.over(lambda run: (run.result.get("seconds") or {}).get("fit"))),
    ]
    return _simple(
        comparison,
        "Further metrics, and what the runs took",
        extra,
        "metrics in percent; validation: of the selected step, on validation classes",
    )


def diagnostics(comparison: Comparison) -> Table:
    """What the batches looked like at the end of training."""
    figures = ("active_share", "positive_distance", "negative_distance", "norm_mean", "effective_rank")
    extra: list[tuple[str, Kind, Callable[[Group], Estimate | None]]] = [
        (
            figure.replace("_", " "),
            "number",
            lambda g, key=f"batch/{figure}": g.over(
                lambda run: (run.result.get("history") or [{}])[-1].get(key)
            ),
        )  # type: ignore[misc]
        for figure in figures
    ]
    return _simple(
        comparison,
        "Batches at the end of training",
        extra,
        "means over the training batches logged since the last validation but one; active share: of the "
        "pairs or triplets that the loss still acts on",
    )


def paired(comparison: Comparison, every: bool = False) -> Table:
    """Differences between rows that are alike in all columns but one, seed by seed.

    Args:
        comparison: the rows.
        every: of all pairs, however many.
    """
    names = main_metrics(comparison)
    context = comparison.context
    columns: list[tuple[str, Kind]] = [
        ("difference", "text"),
        *((short(c), "text") for c in context if c != LOSS),
    ]
    table = Table(
        "Paired differences", [*columns, ("seeds", "text"), *((metric_name(m), "points") for m in names)]
    )
    for column in [LOSS, *(c for c in context if c not in ("dataset", "embedding_size"))]:
        others = [c for c in [LOSS, *context] if c != column]
        for block in comparison.blocks(others):
            table.rules.add(len(table.rows))
            for first, second in _pairs(block, names, every):
                values = [paired_difference(first.by_seed(m), second.by_seed(m)) for m in names]
                n = max((v.n for v in values if v), default=0)
                if n < 2:
                    continue
                what = [f"{show(g.settings.get(column))}" for g in (first, second)]
                name = (
                    f"{what[0]} − {what[1]}"
                    if column == LOSS
                    else f"{first.loss}: {short(column)} {what[0]} − {what[1]}"
                )
                where = [NONE if c == column else show(first.settings.get(c)) for c in context]
                cells = [Cell(v, bool(v and v.excludes_zero)) for v in values]
                table.rows.append([Cell(name), *map(Cell, where), Cell(_seeds(n)), *cells])
    note = (
        "mean ± 95 % t-interval of the difference over common seeds, in percentage points; bold where the interval "
        "excludes 0; each interval by itself, not corrected for their number"
    )
    return _finished(table, note)


def published(comparison: Comparison) -> Table:
    """What papers report for the data sets that are here."""
    sets = [name for name in PUBLISHED if any(g.settings.get("dataset") == name for g in comparison.groups)]
    rows = [(name, row) for name in sets for row in PUBLISHED[name]]
    names = [m for m in main_metrics(comparison) if any(m in row.values for _, row in rows)]
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


def _pairs(block: Sequence[Group], names: Sequence[str], every: bool) -> list[tuple[Group, Group]]:
    """All pairs of few groups, the later minus the earlier; of many, each against the best, and forms of one loss."""
    if every or len(block) <= ALL_PAIRS or not names:
        return [(second, first) for first, second in combinations(block, 2)]
    means = [(e.mean if (e := group.metric(names[0])) else -1.0) for group in block]
    best = block[means.index(max(means))]
    forms = [
        (b, a) for a, b in combinations(block, 2) if best not in (a, b) and _form(a) and _form(a) == _form(b)
    ]
    return [*((group, best) for group in block if group is not best), *forms]


def _form(group: Group) -> str:
    """The class of a loss that is there in several forms."""
    return group.loss.partition(" (")[0] if " (" in group.loss else ""


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


def _title(comparison: Comparison) -> str:
    data = sorted({str(group.settings.get("dataset")) for group in comparison.groups})
    classes = "unseen test classes" if comparison.stage == "test" else "validation classes"
    return f"{', '.join(data)}: {classes}"


def _started(comparison: Comparison, title: str, more: list[tuple[str, Kind]]) -> Table:
    settings: list[tuple[str, Kind]] = [(short(column), "text") for column in comparison.columns]
    return Table(title, [*settings, ("seeds", "text"), *more])


def _heading(comparison: Comparison, group: Group) -> list[Cell]:
    return [*(Cell(show(group.settings.get(c))) for c in comparison.columns), Cell(_seeds(len(group.runs)))]


def _seeds(n: int) -> str:
    return f"{n}{'†' if n < ENOUGH else ''}"


def _simple(
    comparison: Comparison,
    title: str,
    extra: Sequence[tuple[str, Kind, Callable[[Group], Estimate | None]]],
    note: str,
) -> Table:
    """A table of the groups with these columns, less those that are empty."""
    values = [[figure(group) for _, _, figure in extra] for group in comparison.groups]
    kept = [i for i in range(len(extra)) if any(row[i] for row in values)]
    table = _started(comparison, title, [extra[i][:2] for i in kept])
    firsts = {id(block[0]) for block in comparison.blocks()}
    for group, row in zip(comparison.groups, values, strict=True):
        if id(group) in firsts:
            table.rules.add(len(table.rows))
        table.rows.append([*_heading(comparison, group), *(Cell(row[i]) for i in kept)])
    return _finished(table, note) if kept else Table(title, [])


def _finished(table: Table, note: str) -> Table:
    table.notes = [note, *([FEW] if table.marked() else [])]
    return table
