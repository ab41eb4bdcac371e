"""How a gallery of queries and what they retrieve is drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lifted_lightning.pictures.style import FAINT, INK, UInt8Array, as_rgb, fitted, paper_style, save, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RIGHT, WRONG, UNKNOWN, ABSENT = 1, 0, 2, -1

# A bluish green and a dark red: they differ in lightness too.
FRAMES = {RIGHT: "#00a072", WRONG: "#c8202f", UNKNOWN: "#9a9a9a"}
CELL, GAP, FRAME = 0.92, 0.10, 0.045  # inches: an image with its frame, space between two, the frame
LINE, HEADING, TITLE, MARGIN = 0.115, 0.30, 0.34, 0.12
INSET = 0.012
COLUMNS = 17  # of text below an image


def draw_gallery(
    path: Path,
    images: UInt8Array,
    names: Sequence[Sequence[str]],
    status: npt.NDArray[np.int_],
    headings: Sequence[str],
    title: str,
) -> None:
    """Draw queries with their nearest neighbours in a row, framed green if of the query's class, else red.

    Args:
        path: the PNG to write.
        images: (R, 1 + K, H, W, C) uint8: in each row the query, then its neighbours, nearest first.
        names: (R, 1 + K) what stands below each image.
        status: (R, K), RIGHT, WRONG, UNKNOWN (grey) or ABSENT (nothing is drawn) for each neighbour.
        headings: (R,) the heading of each row's group; it is drawn once above rows that share it.
        title: the line at the top.
    """
    from matplotlib.figure import Figure

    rows, columns = images.shape[:2]
    # The query's name is set bold, and wider.
    texts = [[wrapped(name, COLUMNS - 2 * (i == 0), lines=3) for i, name in enumerate(row)] for row in names]
    below = [LINE * max(text.count("\n") + 1 for text in row) + 0.07 for row in texts]
    starts = [r for r in range(rows) if r == 0 or headings[r] != headings[r - 1]]
    height = TITLE + len(starts) * HEADING + sum(CELL + b + GAP for b in below) + MARGIN - GAP
    width = 2 * MARGIN + columns * CELL + columns * GAP  # the query stands apart by one more gap
    with paper_style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(MARGIN, MARGIN + 0.1, title, fontsize=9.5, va="center", weight="bold")
        top = TITLE
        for r in range(rows):
            if r in starts:
                axes.text(MARGIN, top + HEADING - 0.09, headings[r], fontsize=8, va="baseline", color=FAINT)
                top += HEADING
            _draw_row(axes, top, images[r], texts[r], status[r])
            top += CELL + below[r] + GAP
        axes.set(xlim=(0, width), ylim=(height, 0), aspect="auto")
        save(figure, path)


def _draw_row(axes: "Axes", top: float, images: UInt8Array, texts: Sequence[str], status: npt.NDArray[np.int_]) -> None:
    colours = [INK, *(FRAMES.get(int(s)) for s in status)]
    for column, (image, text, colour) in enumerate(zip(images, texts, colours, strict=True)):
        if colour is None:
            continue
        left = cell_left(column)
        draw_framed(axes, image, left, top, colour)
        ink = colour if colour == FRAMES[WRONG] else INK if column == 0 else FAINT
        axes.text(
            left + CELL / 2, top + CELL + 0.05, text, fontsize=6.2, ha="center", va="top", color=ink,
            linespacing=1.15, weight="bold" if column == 0 else "normal",
        )  # fmt: skip


def draw_framed(axes: "Axes", image: UInt8Array, left: float, top: float, colour: str) -> None:
    """Draw an image (H, W, C) in a frame of this colour; ``left`` and ``top`` are inches."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((left, top), CELL, CELL, facecolor=colour, linewidth=0))
    # A white line between frame and image keeps dark frames from running into dark images.
    within = CELL - 2 * FRAME
    axes.add_patch(Rectangle((left + FRAME, top + FRAME), within, within, facecolor="white", linewidth=0))
    edge = FRAME + INSET
    inner = fitted(image, left + edge, left + CELL - edge, top + CELL - edge, top + edge)
    axes.imshow(as_rgb(image), extent=inner, interpolation="antialiased", zorder=2)


def cell_left(column: int) -> float:
    """The left edge of a gallery's column, in inches; the query's is column 0."""
    return MARGIN + column * (CELL + GAP) + (GAP if column else 0)
