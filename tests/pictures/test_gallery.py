"""The picture of a gallery, by its pixels."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from lifted_lightning.pictures import gallery
from lifted_lightning.pictures.gallery import (
    ABSENT,
    CELL,
    FRAME,
    FRAMES,
    RIGHT,
    UNKNOWN,
    WRONG,
    cell_left,
    draw_gallery,
)
from lifted_lightning.pictures.style import DPI, INK


class TestPicture:
    def test_frames_and_images_are_where_they_belong(self, tmp_path: Path) -> None:
        images = np.full((3, 4, 20, 20, 3), 90, dtype=np.uint8)
        images += np.arange(12, dtype=np.uint8).reshape(3, 4, 1, 1, 1)
        status = np.array([[RIGHT, WRONG, RIGHT], [WRONG, WRONG, ABSENT], [UNKNOWN, RIGHT, WRONG]])
        names = [["one line"] * 4] * 3
        draw_gallery(tmp_path / "g.png", images, names, status, ["a", "a", "b"], "title")
        picture = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
        of_row = CELL + gallery.LINE + 0.07 + gallery.GAP
        tops = [gallery.TITLE + gallery.HEADING * (1 + (row == 2)) + row * of_row for row in range(3)]
        for row, top in enumerate(tops):
            for column in range(4):
                left = cell_left(column)
                centre = picture[self.at(top + CELL / 2), self.at(left + CELL / 2)]
                middle, thin = CELL / 2, FRAME / 2  # of each side of a frame
                points = [(thin, middle), (CELL - thin, middle), (middle, thin), (middle, CELL - thin)]
                edges = [picture[self.at(top + dy), self.at(left + dx)] for dy, dx in points]
                kind = status[row, column - 1]
                absent = column > 0 and kind == ABSENT
                colour = INK if column == 0 else "#ffffff" if absent else FRAMES[kind]
                for edge in edges:
                    assert tuple(edge) == tuple(bytes.fromhex(colour[1:]))
                assert tuple(centre) == (255,) * 3 if absent else (90 + 4 * row + column,) * 3

    @staticmethod
    def at(inches: float) -> int:
        return int(inches * DPI)

    def test_names_in_many_scripts(self, tmp_path: Path) -> None:
        """No character of these is missing from the fonts that matplotlib brings."""
        names = [["Ж щука", "Ωμέγα", "ⴲⵣ", "∯ ⨌", "𝔄 𝕭", "Ő ǅ ﬃ", "$x_1^{2}$ \\frac", "a\nb\tc", ""]]
        images = np.zeros((1, 9, 8, 8, 1), dtype=np.uint8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            draw_gallery(tmp_path / "g.png", images, names, np.ones((1, 8), int), ["first"], "100 % of $5")
        assert (tmp_path / "g.png").exists()
