"""The report's figures, each as PNG and SVG."""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifted_lightning.report.compare import PAPER_LOSSES, UNTRAINED, Comparison, Group, short, words
from lifted_lightning.report.drawing import Curve, add_legend, axes_for, draw_line, draw_published, number_axis, style
from lifted_lightning.report.published import NOT_COMPARABLE, PAPER, PUBLISHED, Published, follows_the_paper, nearest
from lifted_lightning.report.read import numbers
from lifted_lightning.report.table import estimate
from lifted_lightning.report.tables import metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes


LINES, PANELS = 9, 4  # at most; of more, the best


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows: its title, and the groups that make each line, by the line's name."""

    title: str
    lines: dict[str, list[Group]]

    @property
    def dataset(self) -> str:
        return dataset_of(self.groups[0])

    @property
    def groups(self) -> list[Group]:
        return [group for groups in self.lines.values() for group in groups]


def panels_of(comparison: Comparison) -> tuple[list[Panel], str]:
    """A panel for each block of rows, lines for its losses; and a note if the best alone are shown."""
    keys = comparison.context
    if all(len(block) == 1 for block in comparison.blocks()):
        keys = [key for key in keys if key == "dataset"]
    others = [key for key in comparison.context if key not in keys]
    panels = [
        Panel(comparison.title(block[0], keys) or dataset_of(block[0]), lines_of(comparison, block, others))
        for block in best(comparison.blocks(keys), PANELS)
    ]
    return panels, left_out(comparison, panels)


def lines_of(comparison: Comparison, block: Sequence[Group], others: Sequence[str]) -> dict[str, list[Group]]:
    """The groups of each line: those with the same loss and the same of the other columns; the best lines."""
    lines: dict[str, list[Group]] = {}
    for group in sorted(block, key=lambda group: comparison.losses.index(group.loss)):
        rest = comparison.title(group, others)
        name = rest if rest and len(comparison.losses) == 1 else ", ".join(filter(None, [group.loss, rest]))
        lines.setdefault(name, []).append(group)
    kept = best(list(lines.values()), LINES)
    return {name: groups for name, groups in lines.items() if groups in kept}


def best(blocks: Sequence[list[Group]], most: int) -> list[list[Group]]:
    """The blocks with the best groups, in their order."""
    scores = [max(group.score for group in block) for block in blocks]
    kept = sorted(range(len(blocks)), key=lambda i: -scores[i])[:most]
    return [blocks[i] for i in sorted(kept)]


def left_out(comparison: Comparison, panels: Sequence[Panel]) -> str:
    """A note where the panels show the best rows alone."""
    shown = sum(len(panel.groups) for panel in panels)
    return f"the best {shown} of {len(comparison.groups)} rows" if shown < len(comparison.groups) else ""


def dataset_of(group: Group) -> str:
    """The name of the data set that a group's runs are of."""
    return str(group.settings.get("dataset"))


CURVES = {
    "curves": ("validation/map@r", "step", "training step", "Validation MAP@R while training"),
    "time": ("validation/recall@1", "seconds", "seconds of training", "Validation Recall@1 against time"),
}


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: the files' name without ending, what it shows, and in how many panels."""

    stem: str
    caption: str
    panels: int


def draw(comparison: Comparison, out: Path) -> list[Drawn]:
    """Draw every figure that the runs have numbers for, into a folder."""
    drawn = [_recall(comparison, out)]
    for column in comparison.context:
        values = [group.settings.get(column) for group in comparison.groups]
        if len(numbers(value for value in values if not isinstance(value, bool))) == len(values):
            drawn.append(_against(comparison, column, out))
    drawn += _training(comparison, out)
    return [figure for figure in drawn if figure]


def _recall(comparison: Comparison, out: Path) -> Drawn | None:
    """Recall@K against K."""
    ks = {name: int(name.removeprefix("recall@")) for name in comparison.metrics if name.startswith("recall@")}
    if len(ks) < 2:
        return None
    panels, note = panels_of(comparison)
    published: list[Published] = []
    with _axes(panels, out / "recall") as axes:
        looks = _looks(comparison, panels)
        for panel, ax in zip(panels, axes, strict=True):
            for name, (group,) in panel.lines.items():
                points = [(k, e) for metric, k in ks.items() if (e := group.metric(metric))]
                draw_line(ax, _curve(points), looks[name])
            rows = [p for p in PUBLISHED.get(panel.dataset, ()) if p.source == PAPER and "recall@1" in p.values]
            for row in rows:
                places = [(ks[metric], value) for metric, value in row.values.items() if metric in ks]
                draw_published(ax, *_unzip(places), _published_look(row, looks), row.read_off)
            published += rows
            own = {k for metric, k in ks.items() if any(group.metric(metric) for group in panel.groups)}
            number_axis(ax, sorted(own), "K")
        axes[0].set_ylabel("Recall@K, %")
        add_legend(axes, _columns(panels), _legend_title(published, panels))
    return Drawn("recall", _caption("Recall@K against K", comparison, note, published), len(panels))


def _against(comparison: Comparison, column: str, out: Path) -> Drawn | None:
    """F1, NMI and Recall@1 against the embedding size, or against any other number that was varied."""
    names = [metric for metric in ("f1", "nmi", "recall@1", "map@r") if metric in comparison.metrics][:3]
    stem, what = short(column), words(column)
    others = [c for c in comparison.context if c not in (column, "dataset")]
    several = "dataset" in comparison.context
    panels = [
        Panel(dataset_of(block[0]) if several else "", lines_of(comparison, block, others))
        for block in best(comparison.blocks(["dataset"]), PANELS)
    ]
    published: list[Published] = []
    titles = [", ".join(filter(None, [metric_name(m), panel.title])) for panel in panels for m in names]
    with axes_for(titles, len(names), out / stem, alike=False) as axes:
        looks = _looks(comparison, panels)
        for i, ax in enumerate(axes):
            panel, metric = panels[i // len(names)], names[i % len(names)]
            for name, groups in panel.lines.items():
                points = [(g.settings[column], e) for g in groups if (e := g.metric(metric))]
                draw_line(ax, _curve(points), looks[name], bars=True)
            if column == "embedding_size":
                rows = [p for p in PUBLISHED.get(panel.dataset, ()) if p.embedding_size and metric in p.values]
                for _, same in groupby(rows, key=lambda row: (row.loss, row.source)):
                    line = list(same)
                    places = [(row.embedding_size or 0, row.values[metric]) for row in line]
                    draw_published(ax, *_unzip(places), _published_look(line[0], looks), line[0].read_off)
                published += rows
            number_axis(ax, sorted({group.settings[column] for group in panel.groups}), what)
        for ax in axes[:: len(names)]:
            ax.set_ylabel("%")
        add_legend(axes, len(names), _legend_title(published, panels))
    title = f"{', '.join(map(metric_name, names))} against {what}"
    return Drawn(stem, _caption(title, comparison, left_out(comparison, panels), published), len(titles))


def _training(comparison: Comparison, out: Path) -> list[Drawn]:
    """Validation while training, against steps and against time."""
    panels, note = panels_of(comparison)
    histories = {
        id(group): [{int(row["step"]): row for row in run.history()} for run in group.runs]
        for panel in panels
        for group in panel.groups
    }
    drawn = []
    for stem, (metric, against, label, title) in CURVES.items():
        curves = {key: _validation_curve(history, metric, against) for key, history in histories.items()}
        if not any(len(curve.x) > 1 for curve in curves.values()):
            continue
        with _axes(panels, out / stem) as axes:
            looks = _looks(comparison, panels)
            for panel, ax in zip(panels, axes, strict=True):
                for name, (group,) in panel.lines.items():
                    marker = "" if len(curves[id(group)].x) > 1 else looks[name]["marker"]
                    draw_line(ax, curves[id(group)], looks[name] | {"marker": marker})
                ax.set_xlim(left=0)
                ax.set_xlabel(label)
            axes[0].set_ylabel(f"validation {metric_name(metric.partition('/')[2])}, %")
            add_legend(axes, _columns(panels))
        more = "mean time of the runs, validation included" if against == "seconds" else ""
        caption = _caption(title, comparison, "; ".join(filter(None, [note, more])), [])
        drawn.append(Drawn(stem, caption, len(panels)))
    return drawn


def _validation_curve(histories: Iterable[dict[int, dict[str, Any]]], metric: str, against: str) -> Curve:
    """A metric over the runs at every step at which all that have it were validated."""
    kept = [
        {step: row for step, row in history.items() if len(numbers([row.get(metric), row.get(against)])) == 2}
        for history in histories
    ]
    kept = [history for history in kept if history]
    x, y = [], []
    for step in sorted(set.intersection(*map(set, kept))) if kept else []:
        if found := estimate([float(history[step][metric]) for history in kept]):
            x.append(sum(float(history[step][against]) for history in kept) / len(kept))
            y.append(found)
    return Curve(x, y)


# How they look, and what they are called


def _looks(comparison: Comparison, panels: Sequence[Panel]) -> dict[str, dict[str, Any]]:
    """Each line's look: a loss has the same in every figure, and the paper's three in every report of few."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    losses = sorted(comparison.losses, key=lambda loss: loss == UNTRAINED)
    losses = list(dict.fromkeys([*PAPER_LOSSES, *losses])) if len(losses) < LINES - len(PAPER_LOSSES) else losses
    order = losses if set(names) <= set(losses) else names
    return {name: style(order.index(name)) | {"label": name} for name in names}


def _axes(panels: Sequence[Panel], path: Path) -> AbstractContextManager[list["Axes"]]:
    """Axes of one metric; on one scale for what can be compared."""
    alike = len({panel.dataset for panel in panels}) == 1
    return axes_for([panel.title for panel in panels], _columns(panels), path, alike)


def _columns(panels: Sequence[Panel]) -> int:
    return {1: 1, 2: 2, 4: 2}.get(len(panels), 3)


def _curve(points: Sequence[tuple[Any, Any]]) -> Curve:
    return Curve(*_unzip(points))


def _unzip(points: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [a for a, _ in points], [b for _, b in points]


def _published_look(row: Published, looks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The look of our line of that loss, in black where there is none."""
    own = nearest(row, looks)
    look = looks[own] if own else {"color": "black", "marker": "."}
    how = "read off a figure" if row.read_off else "published"
    return look | {"label": f"{row.loss} {row.year}, {how}"}


def _legend_title(published: Sequence[Published], panels: Sequence[Panel]) -> str:
    differ = any(not follows_the_paper(group.settings) for panel in panels for group in panel.groups)
    if not published:
        return ""
    years = ", ".join(sorted({str(row.year) for row in published}))
    return f"hollow: Oh Song et al. {years}" + (f"; {NOT_COMPARABLE}" if differ else "")


def _caption(title: str, comparison: Comparison, note: str, published: Sequence[Published]) -> str:
    classes = "unseen test classes" if comparison.stage == "test" and "alidation" not in title else ""
    parts = [
        title,
        classes,
        "mean and 95 % interval over seeds",
        note,
        "hollow marks: published numbers" if published else "",
    ]
    return "; ".join(filter(None, parts))
