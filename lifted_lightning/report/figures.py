"""The report's figures, each as PNG, SVG and PDF: the same bytes for the same numbers."""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lifted_lightning.pictures.style import FAINT, INK, PALETTE, paper_style, save
from lifted_lightning.report.compare import LOSS, PAPER_LOSSES, UNTRAINED, Comparison, short, words
from lifted_lightning.report.statistics import estimate
from lifted_lightning.report.tables import metric_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES, PANELS = 9, 4  # at most; of more, the best
_BESIDE = 2.0  # points between the bars of two lines at the same place
_MARKERS = "osD^vPX<>"
_DASHES = ("-", ":", "--", "-.")
_SIZES = {1: (3.7, 2.7), 2: (3.1, 2.4), 3: (2.4, 2.2)}  # inches of a panel, by the number of columns
# What the figure of quality against cost has along x, by its name: the first that all rows tell.
_COSTS = {
    "GPU-seconds of training": "cost.fit.gpu_seconds",
    "core-seconds of training": "cost.fit.core_seconds",
    "seconds of training": "seconds",
}
_CURVES = {
    "curves": ("validation/map@r", "step", "training step", "Validation MAP@R while training"),
    "time": (
        "validation/recall@1",
        "seconds",
        "seconds of training, validation included",
        "Validation Recall@1 against time",
    ),
}
_STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6, "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "axes.xmargin": 0.06, "axes.ymargin": 0.07, "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelsize": 7,
    "ytick.labelsize": 7, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.labelcolor": INK,
    "axes.labelsize": 8, "lines.markersize": 3.6, "lines.linewidth": 1.2, "legend.fontsize": 7, "legend.frameon": False,
    "legend.title_fontsize": 7, "figure.constrained_layout.w_pad": 0.07, "figure.constrained_layout.h_pad": 0.06,
    "svg.hashsalt": "lifted-lightning", "pdf.fonttype": 42,
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """A figure that was written: the files' name without ending, what it shows, and in how many panels."""

    stem: str
    caption: str
    panels: int


Axis = Literal["places", "from 0", "wide"]
# For each panel, by its title, the numbers of the rows of each line, by its name.
Panels = dict[str, dict[str, list[int]]]
Curve = tuple[pd.Series, pd.Series]  # means and half-widths of their intervals, as shares, by their places along x


def draw_figures(comparison: Comparison, out: Path) -> list[Drawn]:
    """Draw every figure that the runs have numbers for, into a folder."""
    drawn = [_recall(comparison, out)] if sum(name.startswith("recall@") for name in comparison.metrics) > 1 else []
    for column in comparison.context:
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in comparison.rows[column]):
            chosen = ("f1", "nmi", "recall@1", "map@r")
            drawn.append(_against(comparison, out / short(column), comparison.rows[column], words(column), chosen))
    return [*drawn, *_cost(comparison, out), *_training(comparison, out)]


def _recall(comparison: Comparison, out: Path) -> Drawn:
    """Recall@K against K."""
    ks = {f"{comparison.stage}/{m}": int(m[7:]) for m in comparison.metrics if m.startswith("recall@")}
    mean, half = (frame[list(ks)].rename(columns=ks) for frame in comparison.estimates[:2])

    def curve(rows: list[int], _: str) -> Curve:
        return mean.loc[rows[0]], half.loc[rows[0]]

    return _draw(comparison, _panels(comparison), out / "recall", "Recall@K against K", curve, ("K", "Recall@K, %"))


def _against(
    comparison: Comparison, path: Path, x: pd.Series, label: str, chosen: Sequence[str], axis: Axis = "places"
) -> Drawn:
    """The first three of the metrics chosen against a number of each row: what was varied, or what training cost."""

    def curve(rows: list[int], metric: str) -> Curve:
        of = f"{comparison.stage}/{metric}"
        mean, half = (frame.loc[rows, of].set_axis(x[rows]) for frame in comparison.estimates[:2])
        return mean, half

    names = [metric for metric in chosen if metric in comparison.metrics][:3]
    title = f"{', '.join(map(metric_name, names))} against {label}"
    told = x.notna()  # not of a row that was not trained
    panels = {
        name: {line: rows for line, rows in lines.items() if told[rows].all()}
        for name, lines in _panels(comparison, ["dataset"], besides=str(x.name)).items()
        if told[[row for rows in lines.values() for row in rows]].any()
    }
    return _draw(comparison, panels, path, title, curve, (label, "%"), names, axis, int(told.sum()))


def _cost(comparison: Comparison, out: Path) -> list[Drawn]:
    """Quality against what training cost, a point a row."""
    mean = comparison.estimates.mean
    trained = mean.index[mean["steps"] > 0] if "steps" in mean else []
    told = [(label, of) for label, of in _COSTS.items() if of in mean and (mean.loc[trained, of] > 0).all()]
    if len(trained) < 2 or not told:
        return []
    label, of = told[0]
    cost = mean[of].where(mean["steps"] > 0)
    return [_against(comparison, out / "cost", cost, label, ("recall@1", "map@r"), axis="wide")]


def _training(comparison: Comparison, out: Path) -> list[Drawn]:
    """Validation while training, against steps and against time."""
    panels = _panels(comparison)
    runs = comparison.runs[comparison.runs["row"].isin(_rows_of(panels))]
    about = zip(runs[["row", "unit", "name"]].to_dict("records"), runs["result"], strict=True)
    entries = [entry | run for run, result in about for entry in result.get("history") or []]
    columns = ["row", "unit", "name", "step", "seconds", "validation/map@r", "validation/recall@1"]
    logged = pd.DataFrame(entries, columns=columns).drop_duplicates(["row", "name", "step"], keep="last")
    drawn = []
    for stem, (metric, against, label, title) in _CURVES.items():
        kept = logged.dropna(subset=[metric, against])
        by_unit = kept[[metric, against]].astype(float).groupby([kept["row"], kept["step"], kept["unit"]]).mean()
        mean, half, _ = estimate(by_unit, [by_unit.index.get_level_values(level) for level in ("row", "step")])
        # At a step at which not all the runs of a row were validated, the mean would be of other runs.
        there = kept.groupby(["row", "step"])["name"].nunique()
        every = there == there.index.get_level_values("row").map(kept.groupby("row")["name"].nunique())
        mean, half = (frame[every].droplevel("step") for frame in (mean, half))
        curves = (mean[against], mean[metric], half[metric])

        def curve(rows: list[int], _: str, at: Any = mean.index, of: Sequence[pd.Series] = curves) -> Curve:
            x, mean, half = (column[at.isin(rows)] for column in of)
            return mean.set_axis(x), half.set_axis(x)

        if mean.index.has_duplicates:  # else no curve has two points
            labels = (label, f"validation {metric_name(metric[11:])}, %")
            drawn.append(_draw(comparison, panels, out / stem, title, curve, labels, axis="from 0"))
    return drawn


def _panels(comparison: Comparison, keys: Sequence[str] | None = None, besides: str = "") -> Panels:
    """A panel for each block of rows that agree in some columns, with a line for each loss and what else differs.

    Args:
        comparison: the rows.
        keys: the columns; by default all beside the loss, or the data set alone where blocks would have one row.
        besides: a column along which a line runs.
    """
    if keys is None:
        keys = comparison.context
        keys = ["dataset"] if all(len(block) == 1 for block in comparison.blocks(keys)) else keys
    others = [key for key in comparison.context if key not in (*keys, besides)]
    named = others if others and len(comparison.losses) == 1 else [LOSS, *others]
    chosen: list[list[list[int]]] = []  # of each panel, of each line, the rows
    for block in _best(comparison, comparison.blocks(keys), PANELS):
        lines: dict[str, list[int]] = {}
        for row in sorted(block, key=lambda row: comparison.losses.index(comparison.rows[LOSS][row])):
            lines.setdefault(comparison.title(row, named), []).append(row)
        chosen.append(_best(comparison, list(lines.values()), LINES))
    # What all that is drawn has in common is said once, not in each name.
    common = _common(comparison, [row for lines in chosen for rows in lines for row in rows])
    keys, named = ([key for key in part if key not in common] for part in (keys, named))
    return {
        comparison.title(lines[0][0], keys or ["dataset"]): {
            comparison.title(rows[0], named or [LOSS]): rows for rows in lines
        }
        for lines in chosen
    }


def _rows_of(panels: Panels) -> list[int]:
    return [row for lines in panels.values() for rows in lines.values() for row in rows]


def _common(comparison: Comparison, rows: Sequence[int]) -> list[str]:
    """The columns in which these rows agree."""
    return [key for key in [LOSS, *comparison.context] if comparison.rows.loc[rows, key].map(repr).nunique() == 1]


def _best(comparison: Comparison, blocks: Sequence[list[int]], most: int) -> list[list[int]]:
    """The blocks with the best rows, in their order."""
    order = sorted(range(len(blocks)), key=lambda i: -max(comparison.scores[row] for row in blocks[i]))
    return [blocks[i] for i in sorted(order[:most])]


def _draw(
    comparison: Comparison,
    panels: Panels,
    path: Path,
    title: str,
    curve: Callable[[list[int], str], Curve],
    labels: tuple[str, str],
    metrics: Sequence[str] = (),
    axis: Axis = "places",
    among: int = 0,
) -> Drawn:
    """Draw a figure and write it as PNG, SVG and PDF.

    Args:
        comparison: the rows.
        panels: one for each pair of axes, or for each row of them.
        path: of the files, without ending.
        title: what the figure shows.
        curve: gives the line of some rows, for the metric of a pair of axes.
        labels: of the axes.
        metrics: of which there is a pair of axes in each panel, with intervals as bars; by default there is one pair,
            with bands.
        axis: a mark and a tick at each of the ``places``; a plain axis ``from 0``; or ``wide``, logarithmic where the
            points spread far.
        among: of how many rows those of the panels are the best; by default of all.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    shown, bars = _rows_of(panels), bool(metrics)
    left_out = [comparison.title(row) for row in comparison.rows.index if row not in shown]
    among = among or len(comparison.rows)
    few = f"the best {len(shown)} of {among} rows" if len(shown) < among else ""
    common = _common(comparison, shown) if len(shown) > 1 else []
    told = "; ".join(filter(None, [f"all: {comparison.title(shown[0], common)}" if common else "", few]))
    looks = _looks(comparison, panels)
    pairs = [(name, lines, metric) for name, lines in panels.items() for metric in metrics or [""]]
    columns = len(metrics) or {1: 1, 2: 2, 4: 2}.get(len(pairs), 3)
    (width, height), count = _SIZES[columns], -(-len(pairs) // columns)
    with paper_style(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure((columns * width, count * height), layout=(layout := ConstrainedLayoutEngine()))
        one_scale = not metrics and "dataset" not in comparison.context
        axes = figure.subplots(count, columns, sharey=one_scale, squeeze=False)
        for ax, (name, lines, metric) in zip(axes.flat, pairs, strict=True):
            heading = ", ".join([metric_name(metric)] + [name] * (len(panels) > 1)) if metric else name
            together = re.sub(r" (?=[^ ,]+(,|$))", "\u00a0", heading)  # a value stands beside its name
            ax.set_title(textwrap.fill(together, int(13 * width)))
            places = set[float]()
            ax.set_xmargin(0.06 + 0.008 * len(lines) * bars)
            for i, (line, rows) in enumerate(lines.items()):
                beside = _BESIDE * (i - (len(lines) - 1) / 2) * (bars and axis == "places")
                places |= _draw_line(ax, curve(rows, metric), looks[line], axis == "places", bars, beside)
            _x_axis(ax, sorted(places), labels[0], axis)
        for ax in axes[:, 0] if metrics else axes[:1, 0]:
            ax.set_ylabel(labels[1])
        handles = {line.get_label(): line for ax in axes.flat for line in ax.get_lines()}
        fitting = int(17 * columns * width / (max(map(len, handles), default=1) + 8))  # a mark takes 8 characters
        one = len(pairs) == 1
        legend = figure.legend(
            handles.values(), handles, title=told, alignment="left",
            ncols=1 if one else max(1, min(fitting, len(handles))),
            loc="outside right center" if one else "outside lower center",
        )  # fmt: skip
        box = legend.get_window_extent()
        wide, high = (box.width / figure.dpi * one, box.height / figure.dpi * (not one))
        figure.set_size_inches(columns * width + wide, count * height + high)
        layout.execute(figure)  # once, not again for each file
        figure.set_layout_engine(None)  # not "none", which would draw each file twice
        save(figure, path.with_suffix(".png"))
        FigureCanvasSVG(figure)
        figure.savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(path.with_suffix(".pdf"), format="pdf", metadata={"CreationDate": None, "Creator": None})
    classes = "unseen test classes" if comparison.stage == "test" and axis != "from 0" else ""
    interval = f"mean and 95 % interval over {comparison.units}"
    missing = f"not drawn: {'; '.join(left_out)}" if left_out else ""
    caption = "; ".join(filter(None, [title, classes, interval, told, missing]))
    return Drawn(path.name, caption, len(pairs))


def _looks(comparison: Comparison, panels: Panels) -> dict[str, dict[str, Any]]:
    """Each line's look: a loss has the same colour in every figure, and the paper's three in every report of few.

    Where a loss has several lines, what else they differ in has a mark and a dash.
    """
    losses = {name: comparison.rows[LOSS][rows[0]] for lines in panels.values() for name, rows in lines.items()}
    kinds = list(dict.fromkeys(name.removeprefix(loss) for name, loss in losses.items()))
    several = 1 < len(set(losses.values())) < len(losses)
    drawn = list(dict.fromkeys(losses.values() if several else losses))
    order = sorted(comparison.losses, key=lambda loss: loss == UNTRAINED)
    if len(order) < LINES - len(PAPER_LOSSES):
        order = list(dict.fromkeys([*PAPER_LOSSES, *order]))
    order = order if set(drawn) <= set(order) else drawn
    looks = {}
    for name, loss in losses.items():
        i = order.index(loss if several else name)
        kind = kinds.index(name.removeprefix(loss)) if several else i // len(PALETTE)
        look = {"color": PALETTE[i % len(PALETTE)], "marker": _MARKERS[(kind if several else i) % len(_MARKERS)]}
        looks[name] = look | {"linestyle": _DASHES[kind % len(_DASHES)], "label": name}
    return looks


def _draw_line(ax: "Axes", curve: Curve, look: dict[str, Any], marks: bool, bars: bool, beside: float) -> set[float]:
    """A line in percent with its intervals, cut at 0 and 100, as a band or as bars; gives its places along x.

    It is drawn so many points beside them, so that bars do not hide each other.
    """
    from matplotlib.transforms import ScaledTranslation

    x, mean, half = curve[0].index.to_numpy(float), 100 * curve[0].to_numpy(float), 100 * curve[1].to_numpy(float)
    x, mean, half = x[(there := ~np.isnan(mean))], mean[there], np.nan_to_num(half[there])
    low, high = (mean - half).clip(min=0.0), (mean + half).clip(max=100.0)
    shown = look if marks or len(x) == 1 else look | {"marker": ""}
    drawn: list[Any] = ax.plot(x, mean, zorder=3, clip_on=len(x) > 1, **shown)
    if bars and half.any():
        drawn.append(ax.vlines(x, low, high, color=look["color"], linewidth=0.9, zorder=2))
    elif half.any():
        ax.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0, zorder=2)
    if beside:  # now that the axes know where the line lies
        moved = ax.transData + ScaledTranslation(beside / 72, 0, ax.figure.dpi_scale_trans)
        for artist in drawn:
            artist.set_transform(moved)
    return set(x)


def _x_axis(ax: "Axes", places: Sequence[float], label: str, kind: Axis) -> None:
    """An x axis with a tick at each of few places, logarithmic where they span more than a factor of six."""
    from matplotlib.ticker import LogLocator

    ax.set_xlabel(label)
    far = places and places[0] > 0 and places[-1] / places[0] > 6
    if kind == "from 0" or (kind == "wide" and not far):
        ax.set_xlim(left=0)
        return
    if far:
        ax.set_xscale("log", base=2 if kind == "places" else 10)
    if kind == "wide":
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter(lambda place, _: f"{place:,.12g}")
    elif len(places) <= 8:
        ax.set_xticks(places, [f"{place:g}" for place in places])
    ax.minorticks_off()
