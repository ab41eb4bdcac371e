"""Axes, lines and legends of the report's figures, and how they are saved: the same bytes for the same numbers."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifted_lightning.pictures.style import FAINT, INK, PALETTE, paper_style, save
from lifted_lightning.report.table import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX<>"
# Inches: axes by the number of columns, and the room around them for ticks, labels and titles.
_SIZES = {1: (3.0, 2.0), 2: (2.6, 1.8), 3: (1.85, 1.5)}
_LEFT, _EDGE, _ABOVE, _BELOW = 0.5, 0.15, 0.26, 0.42
_STYLE = {
    "font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left", "axes.titlecolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": FAINT, "axes.linewidth": 0.6,
    "axes.grid": True, "grid.color": "#e6e6e6", "grid.linewidth": 0.5, "axes.axisbelow": True,
    "xtick.color": FAINT, "ytick.color": FAINT, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "axes.labelcolor": INK, "axes.labelsize": 8,
    "lines.markersize": 3.6, "lines.linewidth": 1.2, "legend.fontsize": 7, "legend.frameon": False,
    "legend.title_fontsize": 7, "svg.hashsalt": "lifted-lightning",
}  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """Means with intervals, as shares, at places along the x axis."""

    x: Sequence[float]
    y: Sequence[Estimate]


@contextmanager
def axes_for(titles: Sequence[str], columns: int, path: Path, alike: bool) -> Iterator[list["Axes"]]:
    """Axes with these titles, in rows of so many; they are saved as PNG and SVG when the block ends.

    Args:
        titles: one for each pair of axes.
        columns: of axes.
        path: of the files, without ending.
        alike: all y axes have the same limits.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with paper_style(), matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        figure = Figure()
        axes = [figure.add_axes((0, 0, 1, 1), label=str(i)) for i in range(len(titles))]
        for ax in axes[1:] if alike else ():
            ax.sharey(axes[0])
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title, weight="bold")
            ax.margins(0.06, 0.07)
        yield axes
        _lay_out(figure, columns)
        save(figure, path.with_suffix(".png"))
        FigureCanvasSVG(figure)
        figure.savefig(path.with_suffix(".svg"), format="svg", metadata={"Date": None, "Creator": None})


def _lay_out(figure: "Figure", columns: int) -> None:
    """Give all axes one size, and the figure what they and its legend need.

    matplotlib's own layouts draw the figure once more to find what is known here.
    """
    rows = -(-len(figure.axes) // columns)
    width, height = _SIZES.get(columns, _SIZES[3])
    right, bottom = columns * (width + _LEFT) + _EDGE, rows * (height + _ABOVE + _BELOW)
    for legend in figure.legends:
        box = legend.get_window_extent()
        legend_width, legend_height = box.width / figure.dpi, box.height / figure.dpi
        if len(figure.axes) == 1:
            legend.set_bbox_to_anchor((right, (_BELOW + height / 2)), figure.dpi_scale_trans)
            right += legend_width + _EDGE
        else:
            legend.set_bbox_to_anchor(((right - legend_width) / 2, legend_height / 2), figure.dpi_scale_trans)
            bottom += legend_height
    figure.set_size_inches(right, bottom)
    for i, ax in enumerate(figure.axes):
        x, y = (
            _LEFT + i % columns * (width + _LEFT),
            bottom - (i // columns + 1) * (height + _ABOVE + _BELOW) + _BELOW,
        )
        ax.set_position((x / right, y / bottom, width / right, height / bottom))


def style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of a figure's line of this number."""
    colour = PALETTE[index % len(PALETTE)]
    dashes = "-" if index < len(PALETTE) else ":"
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
    """Published numbers: hollow marks over ours, on a thin line, dashed if they are read off a figure."""
    changed = {
        "markerfacecolor": "white",
        "linewidth": 0.7,
        "linestyle": "--" if read_off else "-",
        "markersize": 4.5,
    }
    ax.plot(x, percent, zorder=4, **(dict(look) | changed))


def number_axis(ax: "Axes", values: Sequence[float], label: str) -> None:
    """An x axis with a tick at each of few values; logarithmic where they span more than a factor of six."""
    ax.set_xlabel(label)
    if values[0] > 0 and values[-1] / values[0] > 6:
        ax.set_xscale("log", base=2)
    if len(values) <= 8:
        ax.set_xticks(values, [f"{value:g}" for value in values])
    ax.minorticks_off()


def add_legend(axes: Sequence["Axes"], columns: int, title: str = "") -> None:
    """One legend with each name once: beside a single pair of axes, below several in so many columns."""
    figure: Any = axes[0].figure
    named: dict[str, Any] = {}
    for ax in axes:
        for handle, name in zip(*ax.get_legend_handles_labels(), strict=True):
            named.setdefault(name, handle)
    room = columns * (_SIZES.get(columns, _SIZES[3])[0] + _LEFT) * 17  # characters, of which a mark takes 8
    fit = int(room / (max(map(len, named), default=1) + 8)) if len(axes) > 1 else 1
    title = textwrap.fill(title, 45 if len(axes) == 1 else 100)
    figure.legend(
        list(named.values()), list(named), title=title, alignment="left", loc="center left",
        ncols=max(1, min(fit, len(named))), borderaxespad=0,
    )  # fmt: skip
