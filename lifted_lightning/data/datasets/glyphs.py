"""Glyphs: characters of many scripts in many faces, drawn from the fonts that matplotlib ships."""

import hashlib
import unicodedata
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from lifted_lightning.data.datasets.base import RetrievalDataset
from lifted_lightning.data.table import ImageTable

STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
FACES = (
    *(f"DejaVuSans{style}" for style in STYLES),  # the first is the regular face
    *(f"DejaVuSansMono{style}" for style in STYLES),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
LEAST_FACES = 8
SIZE = 64  # twice what a small network sees, so that the cache's resizing alone decides how it looks
POINTS = 46  # as large as lets 99 of 100 fit
BASELINE = 51


class Glyphs(RetrievalDataset):
    """Letters and numbers of many scripts as classes, each drawn in 8 to 16 faces; grey, 64x64.

    The faces: DejaVu Sans, Sans Mono and Serif and STIX General, in four styles each. A character is a class
    if its Unicode category is L* or N* and at least 8 faces draw it; of characters whose drawings coincide in
    the regular face (Latin, Greek and Cyrillic A) only the first is a class. Classes are in the order of
    their code points; the first half trains, the second half tests, so that most test scripts are never seen
    in training. A glyph stands on a common baseline, centred by its advance width, at one size for all faces.
    """

    name = "glyphs"
    title = "Glyphs"
    remedy = "it is drawn from matplotlib's fonts, so there is nothing to prepare"

    def table(self, root: Path) -> ImageTable:
        """The table; the data root is not looked at. Items are ``U+0041 DejaVuSans-Bold``."""
        characters = _characters()
        items = [f"U+{ord(c):04X} {face}" for c, faces in characters for face in faces]
        labels = np.repeat(np.arange(len(characters)), [len(faces) for _, faces in characters])
        half = len(characters) // 2
        drawn_by = f"{features.version('freetype2')} {SIZE} {POINTS} {BASELINE} {items}"
        return ImageTable(
            name=self.name,
            labels=labels.astype(np.int64),
            class_names=[f"U+{ord(c):04X} {unicodedata.name(c, '')}" for c, _ in characters],
            train=np.flatnonzero(labels < half),
            test=np.flatnonzero(labels >= half),
            items=items,
            reader=read_glyph,
            key=f"{self.name}-{hashlib.sha256(drawn_by.encode()).hexdigest()[:24]}",
        )


def read_glyph(item: str) -> Image.Image:
    """Draw an item of the table, ``U+0041 DejaVuSans-Bold``."""
    code, face = item.split(" ")
    return draw(chr(int(code[2:], 16)), face)


def draw(character: str, face: str) -> Image.Image:
    """A character in a face: mode L, 64x64, black on white."""
    image = Image.new("L", (SIZE, SIZE), 255)
    ImageDraw.Draw(image).text((SIZE // 2, BASELINE), character, fill=0, font=_font(face), anchor="ms")
    return image


def _file(face: str) -> Path:
    import matplotlib  # not its font manager, which takes a second to start

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf"


@lru_cache(maxsize=len(FACES))
def _font(face: str) -> ImageFont.FreeTypeFont:
    # The basic layout engine is in every Pillow and shapes nothing, so that a drawing is the same everywhere.
    return ImageFont.truetype(_file(face), POINTS, layout_engine=ImageFont.Layout.BASIC)


def _covered(face: str) -> set[str]:
    from fontTools.ttLib import TTFont

    with TTFont(_file(face), lazy=True) as font:
        return {chr(code) for code in font.getBestCmap()}


@lru_cache(maxsize=1)
def _characters() -> list[tuple[str, tuple[str, ...]]]:
    """The classes: each character with the faces that draw it."""
    covered = {face: _covered(face) for face in FACES}
    found: list[tuple[str, tuple[str, ...]]] = []
    drawings: set[bytes] = set()
    for character in sorted(set().union(*covered.values())):
        if unicodedata.category(character)[0] not in "LN":
            continue
        faces = tuple(face for face in FACES if character in covered[face] and _has_ink(character, face))
        if len(faces) < LEAST_FACES:
            continue
        drawing = draw(character, faces[0]).tobytes()
        if drawing not in drawings:
            drawings.add(drawing)
            found.append((character, faces))
    return found


def _has_ink(character: str, face: str) -> bool:
    """Whether the face's glyph shows anything: some characters are mapped to empty ones."""
    left, top, right, bottom = _font(face).getbbox(character)
    return right > left and bottom > top
