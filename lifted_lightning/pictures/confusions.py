"""How pairs of classes that are taken for one another are drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lifted_lightning.pictures.gallery import CELL, FRAMES, GAP, MARGIN, TITLE, WRONG, draw_framed
from lifted_lightning.pictures.style import FAINT, INK, UInt8Array, paper_style, save, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEXT, BAR, THICK = 2.75, 1.45, 0.09  # inches: beside the images, of a whole bar, and its height
SUBTITLES = 0.48  # two lines
TRACK = "#e9e9e9"
PANEL = 2 * CELL + 2 * GAP + TEXT
BETWEEN = 0.2  # panels
COLUMNS = 40  # of a name


def draw_confusions(
    path: Path,
    images: UInt8Array,
    names: Sequence[Sequence[str]],
    times: npt.NDArray[np.int_],
    queries: npt.NDArray[np.int_],
    title: str,
    subtitle: str,
) -> None:
    """Draw pairs of classes, in two columns: an image of each, framed in the colour of its name, and two bars.

    Args:
        path: the PNG to write.
        images: (P, 2, H, W, C) uint8: a query, and its nearest image, which is of another class.
        names: (P, 2) of their classes.
        times: (P, 2) how many queries of the first class have a nearest image of the second, and the other way round.
        queries: (P, 2) of how many queries of that class.
        title: the line at the top.
        subtitle: the line below it.
    """
    from matplotlib.figure import Figure

    columns, step = min(2, len(images)), CELL + BETWEEN
    width = 2 * MARGIN + columns * PANEL + (columns - 1) * BETWEEN
    height = TITLE + SUBTITLES + -(-len(images) // columns) * step + MARGIN - BETWEEN
    with paper_style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.text(MARGIN, MARGIN + 0.1, title, fontsize=9.5, va="center", weight="bold")
        told = f"{subtitle}\nBars: of the class's queries, those whose nearest image is of the other class"
        axes.text(MARGIN, TITLE + 0.02, told, fontsize=8, va="top", linespacing=1.3, color=FAINT)
        for pair, images_of_pair in enumerate(images):
            left = MARGIN + pair % columns * (PANEL + BETWEEN)
            top = TITLE + SUBTITLES + pair // columns * step
            for side, colour in enumerate((INK, FRAMES[WRONG])):
                draw_framed(axes, images_of_pair[side], left + side * (CELL + GAP), top, colour)
                beside, below = left + 2 * (CELL + GAP), top + (1 + side) * CELL / 2
                _draw_bar(axes, beside, below, names[pair][side], times[pair, side], queries[pair, side], colour)
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
        save(figure, path)


def _draw_bar(axes: "Axes", left: float, below: float, name: str, times: int, queries: int, colour: str) -> None:
    """A class's name, and below it the share of its queries that are taken for the other class."""
    from matplotlib.patches import Rectangle

    top = below - THICK - 0.03
    text = axes.text(
        left, top - 0.035, wrapped(name, COLUMNS, lines=2), fontsize=6.6, va="bottom", color=colour, weight="bold",
        linespacing=1.05, clip_on=True,
    )  # fmt: skip
    text.set_clip_path(Rectangle((left, below - CELL / 2), TEXT, CELL / 2, transform=axes.transData))
    share = times / queries if queries else 0.0  # a class may be searched only
    for part, shade in ((1.0, TRACK), (share, colour)):
        axes.add_patch(Rectangle((left, top), part * BAR, THICK, facecolor=shade, linewidth=0))
    told = f"{times:,} of {queries:,} · {100 * share:.0f} %" if queries else "no queries"
    axes.text(left + BAR + 0.08, top + THICK / 2, told, fontsize=6.4, va="center_baseline", color=FAINT)
