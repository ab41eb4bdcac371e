"""Axes, lines and legends of the report's figures, and how they are saved: the same bytes for the same numbers."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifted_lightning import plots
from lifted_lightning.report.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX<>"
_PANEL = (2.35, 2.0)  # inches
_STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left", "axes.titlecolor": plots.INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": plots.FAINT, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "xtick.color": plots.FAINT, "ytick.color": plots.FAINT, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.labelcolor": plots.INK, "axes.labelsize": 8,
    "lines.markersize": 3.6, "lines.linewidth": 1.2, "legend.fontsize": 7, "legend.frameon": False,
    "legend.title_fontsize": 7, "svg.hashsalt": "lifted-lightning",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Means with intervals, as shares, at places along the x axis."""

    x: Sequence[float]
    y: Sequence[Estimate]


@contextmanager
def axes_for(titles: Sequence[str], columns: int, path: Path) -> Iterator[list["Axes"]]:
    """Axes with these titles, in rows of so many; they are saved as PNG and SVG when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    rows = -(-len(titles) // columns)
    with plots.paper_style(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        panel = {1: (3.6, 2.6), 2: (3.2, 2.4)}.get(columns, _PANEL)
        figure = Figure(figsize=(columns * panel[0], rows * panel[1]), layout="constrained")
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(titles))]
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title, weight="bold")
            ax.margins(0.06, 0.07)
        yield axes
        _make_room_for_legend(figure)
        plots.save(figure, path.with_suffix(".png"))
        figure.set_layout_engine("none")  # it is laid out; once more would take as long as drawing it
        FigureCanvasSVG(figure)
        figure.savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None, "Creator": None})


def _make_room_for_legend(figure: "Figure") -> None:
    """Widen the figure by a legend beside it, lengthen it by one below, so that the axes keep their size."""
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05)  # type: ignore[call-arg, union-attr]
    for legend in figure.legends:
        box = legend.get_window_extent()
        if len(figure.axes) == 1:
            figure.set_figwidth(figure.get_figwidth() + box.width / figure.dpi)
        else:
            figure.set_figheight(figure.get_figheight() + box.height / figure.dpi)


def style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a figure's line of this number."""
    colour = plots.PALETTE[index % len(plots.PALETTE)]
    dashes = "-" if index < len(plots.PALETTE) else ":"
    return {"color": colour, "marker": _MARKERS[index % len(_MARKERS)], "linestyle": dashes}


def draw_line(ax: "Axes", curve: Curve, look: Mapping[str, Any], bars: bool = False) -> None:
    """A line in percent with its intervals, as a band, or as bars where the places along x are few."""
    if not curve.x:
        return
    y = [100 * e.mean for e in curve.y]
    ax.plot(curve.x, y, zorder=3, **look)
    halves = [100 * (e.half or 0.0) for e in curve.y]
    if not any(halves):
        return
    low, high = (
        [a - h for a, h in zip(y, halves, strict=True)],
        [a + h for a, h in zip(y, halves, strict=True)],
    )
    if bars:
        ax.vlines(curve.x, low, high, color=look["color"], linewidth=0.9, zorder=2)
    else:
        ax.fill_between(curve.x, low, high, color=look["color"], alpha=0.18, linewidth=0, zorder=2)


def draw_published(
    ax: "Axes", x: Sequence[float], percent: Sequence[float], look: Mapping[str, Any], read_off: bool
) -> None:
    """Published numbers: hollow marks on a thin line, dashed if they are read off a figure."""
    changed = {
        "markerfacecolor": "white",
        "linewidth": 0.7,
        "linestyle": "--" if read_off else "-",
        "alpha": 0.75,
    }
    ax.plot(x, percent, zorder=1, **(dict(look) | changed))


def number_axis(ax: "Axes", values: Sequence[float], label: str) -> None:
    """An x axis with a tick at each of few values; logarithmic where they span more than a factor of six."""
    ax.set_xlabel(label)
    if values[0] > 0 and values[-1] / values[0] > 6:
        ax.set_xscale("log", base=2)
    if len(values) <= 8:
        ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()


def add_legend(axes: Sequence["Axes"], title: str = "") -> None:
    """One legend with each name once: beside a single pair of axes, below several."""
    figure: Any = axes[0].figure
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    place: dict[str, Any] = {"loc": "outside right center"}
    if len(axes) > 1:
        columns = int(figure.get_figwidth() * 17 / (max(map(len, named), default=1) + 8))
        place = {"loc": "outside lower center", "ncols": min(max(columns, 1), len(named))}
    else:
        title = textwrap.fill(title, 45)
    figure.legend(list(named.values()), list(named), title=title, alignment="left", **place)
