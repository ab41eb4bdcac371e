"""Drawing that the pictures share: fonts, colours, small images, names in little room.

Everything here draws with matplotlib's objects, never with pyplot, so that no global state is left behind and
no display is needed. Nothing imports torch: the pictures are drawn in processes that should start fast.
"""

import re
import textwrap
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from lifted_lightning.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure


UInt8Array = npt.NDArray[np.uint8]
Extent = tuple[float, float, float, float]  # left, right, bottom, top

# Paul Tol's "muted" scheme: nine colours that people with the common colour blindnesses tell apart.
PALETTE = ("#332288", "#cc6677", "#117733", "#ddaa33", "#88ccee", "#882255", "#44aa99", "#999933", "#aa4499")

INK, FAINT = "#222222", "#6b6b6b"
DPI = 200

# matplotlib ships the first two; the others are there on some systems and know scripts that those lack.
_FONTS = (
    "DejaVu Sans",
    "STIXGeneral",
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "WenQuanYi Zen Hei",
    "Hiragino Sans",
    "PingFang SC",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans Symbols 2",
)


@contextmanager
def paper_style() -> Iterator[None]:
    """matplotlib's settings for the pictures: one family with fallbacks for other scripts, no mathematics.

    ``$`` and ``_`` in a class name are characters, not formulas.
    """
    import matplotlib
    from matplotlib.font_manager import fontManager

    present = set(fontManager.get_font_names())
    families = [name for name in _FONTS if name in present]
    with matplotlib.rc_context({"font.family": families, "text.color": INK, "text.parse_math": False}):
        yield


def save(figure: "Figure", path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with atomic(path) as file:
        figure.savefig(file, format="png", dpi=DPI, facecolor="white")


def shrink(images: UInt8Array, side: int) -> UInt8Array:
    """Average blocks of pixels until the longer side is below twice ``side``: what a small picture needs.

    Args:
        images: (n, H, W, C) uint8, C is 1 or 3.
        side: the side, in pixels, at which the images are drawn.

    Returns:
        (n, h, w, C) uint8; the images themselves where they are small already.
    """
    factor = max(images.shape[1:3], default=1) // side
    if factor < 2 or not len(images):
        return images
    small = [np.asarray(Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).reduce(factor))
             for image in images]  # fmt: skip
    return np.stack(small).reshape(len(images), *small[0].shape[:2], images.shape[-1])


def as_rgb(image: UInt8Array) -> UInt8Array:
    """(H, W, 1) or (H, W, 3) uint8 to (H, W, 3)."""
    return np.broadcast_to(image, (*image.shape[:2], 3))


def fitted(image: UInt8Array, left: float, right: float, bottom: float, top: float) -> Extent:
    """The same four of the largest rectangle of an image's (H, W, C) shape in the middle of this square."""
    height, width = image.shape[:2]
    x, y = ((1 - side / max(height, width)) / 2 for side in (width, height))
    return left + x * (right - left), right - x * (right - left), bottom + y * (top - bottom), top - y * (top - bottom)


def wrapped(name: str, columns: int, lines: int) -> str:
    """A class name in at most so many lines of at most so many columns; what is cut off the end is an ellipsis."""
    if any(unicodedata.east_asian_width(c) in "WF" for c in name):
        columns //= 2  # such characters are twice as wide
    words = re.sub(r"([_/])", r"\1 ", name)  # signs after which a name may be broken
    text = "\n".join(textwrap.wrap(words, columns, max_lines=lines, placeholder="…"))
    return re.sub(r"([_/]) ", r"\1", text) or "(no name)"
