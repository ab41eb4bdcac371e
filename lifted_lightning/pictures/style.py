"""Drawing that the pictures share: fonts, colours, small images, and the retrieval gallery.

Everything here draws with matplotlib's objects, never with pyplot, so that no global state is left behind and
no display is needed. Nothing imports torch: the pictures are drawn in processes that should start fast.
"""

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


_SIGNS = " _-./:"  # a name may be broken after these


def _width(text: str) -> float:
    """Columns that a text takes: capitals a little more than one, East Asian wide characters two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 + 0.15 * c.isupper()
        for c in text
    )


def fit_name(name: str, columns: int, lines: int = 1) -> str:
    """Break a class name into lines of at most so many columns, 3 or more.

    Lines break after a space or a sign where one is at hand, else anywhere. Of a name that is too long, the
    end is kept too: names of one data set often differ in their ends only.
    """
    name = " ".join(name.split()) or "(no name)"
    broken = _break_lines(name, columns)
    if len(broken) <= lines:
        return "\n".join(broken)
    head = name if lines == 1 else ""
    while _width(head) > columns / 2:
        head = head[:-1]
    tail = name
    while _width(f"{head}…{tail}") > columns:
        tail = tail[1:]
    tail = tail[max((i + 1 for i in range(len(tail) // 2) if tail[i] in _SIGNS), default=0) :]
    return "\n".join([*broken[: lines - 1], f"{head}…{tail}"])


def _break_lines(text: str, columns: int) -> list[str]:
    done: list[str] = []
    while _width(text) > columns:
        end = len(text)
        while end > 1 and _width(text[:end]) > columns:
            end -= 1
        end = max((i + 1 for i in range(end) if text[i] in _SIGNS and i >= end // 3), default=end)
        done.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*done, text]


def far_apart_colours(centres: npt.NDArray[np.floating]) -> npt.NDArray[np.int_]:
    """Give each class one of the palette's colours so that classes of one colour lie far from one another.

    No palette holds hundreds of colours that can be told apart; on a map it is enough that neighbours differ.
    Up to nine classes get a colour each.

    Args:
        centres: (C, 2) where each class lies on the map.

    Returns:
        (C,) index into ``PALETTE``.
    """
    chosen = np.zeros(len(centres), dtype=np.int_)
    nearest = np.full(len(PALETTE), np.inf)
    for c, centre in enumerate(centres):
        distance = np.hypot(*(centres[:c] - centre).T)
        nearest[:] = np.inf
        np.minimum.at(nearest, chosen[:c], distance)
        chosen[c] = int(np.argmax(nearest))
    return chosen


def boxes_overlap(box: npt.NDArray[np.floating], boxes: npt.NDArray[np.floating]) -> bool:
    """Whether a box (x0, y0, x1, y1) shares area with any of (n, 4) boxes."""
    if not len(boxes):
        return False
    apart = (box[2] <= boxes[:, 0]) | (box[0] >= boxes[:, 2]) | (box[3] <= boxes[:, 1]) | (box[1] >= boxes[:, 3])
    return bool((~apart).any())
