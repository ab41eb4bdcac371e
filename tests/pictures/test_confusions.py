"""The picture of pairs of classes, by its pixels."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from lifted_lightning.pictures.confusions import BAR, BETWEEN, PANEL, SUBTITLES, THICK, TRACK, draw_confusions
from lifted_lightning.pictures.gallery import CELL, FRAME, FRAMES, GAP, MARGIN, TITLE, WRONG
from lifted_lightning.pictures.style import DPI, INK

TIMES, QUERIES = np.array([[5, 2], [1, 0], [3, 0]]), np.array([[10, 8], [1, 4], [4, 0]])


def test_frames_images_and_bars_are_where_they_belong(tmp_path: Path) -> None:
    images = np.full((3, 2, 20, 20, 3), 90, np.uint8) + np.arange(6, dtype=np.uint8).reshape(3, 2, 1, 1, 1)
    draw_confusions(tmp_path / "c.png", images, [["a", "W" * 90]] * 3, TIMES, QUERIES, "title", "subtitle")
    picture = np.asarray(Image.open(tmp_path / "c.png").convert("RGB"))

    def colour(x: float, y: float) -> str:
        return "#" + bytes(picture[int(y * DPI), int(x * DPI)]).hex()

    between = picture[int((TITLE + SUBTITLES) * DPI) :, int((MARGIN + PANEL + 0.02) * DPI) :][:, : int(0.15 * DPI)]
    assert (between == 255).all(), "a long name ends with its place"
    for pair in range(3):
        left = MARGIN + pair % 2 * (PANEL + BETWEEN)
        top = TITLE + SUBTITLES + pair // 2 * (CELL + BETWEEN)
        for side, ink in enumerate((INK, FRAMES[WRONG])):
            assert colour(left + side * (CELL + GAP) + FRAME / 2, top + CELL / 2) == ink
            grey = 90 + 2 * pair + side
            assert colour(left + side * (CELL + GAP) + CELL / 2, top + CELL / 2) == "#" + bytes([grey] * 3).hex()
            begin, middle = left + 2 * (CELL + GAP), top + (1 + side) * CELL / 2 - THICK / 2 - 0.03
            share = TIMES[pair, side] / max(1, QUERIES[pair, side])
            for place in (0.02, 0.2, 0.3, 0.45, 0.55, 0.7, 0.8, 0.98):  # along the bar
                assert colour(begin + place * BAR, middle) == (ink if place < share else TRACK), (pair, side, place)


def test_names_are_text_in_many_scripts(tmp_path: Path) -> None:
    names = [["$x_1^{2}$ \\frac", "Ж щука " * 20], ["", "a\nb\tc"], ["Ωμέγα", "<b>&amp;"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusions(tmp_path / "c.png", np.zeros((3, 2, 8, 8, 1), np.uint8), names, TIMES, QUERIES, "$5", "50 %")
    assert (tmp_path / "c.png").exists()
