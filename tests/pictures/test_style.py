"""Names that fit beside a picture, and images made smaller."""

import re
import unicodedata

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lifted_lightning.pictures.style import fit_name, shrink


class TestNames:
    @settings(max_examples=25)
    @given(st.text(max_size=40), st.integers(3, 20), st.integers(1, 3))
    def test_fit(self, name: str, columns: int, lines: int) -> None:
        broken = fit_name(name, columns, lines).split("\n")
        assert 1 <= len(broken) <= lines
        for line in broken:
            wide = sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in line)
            assert wide <= columns
        joined = re.sub(r"\s", "", "".join(broken))
        whole = re.sub(r"\s", "", name) or "(noname)"
        if "…" in joined and "…" not in whole:
            head, tail = joined.split("…")
            assert whole.startswith(head)
            assert whole.endswith(tail)
        else:
            assert joined == whole or "…" in whole

    def test_breaks_at_signs_and_keeps_both_ends(self) -> None:
        assert fit_name("001.Black_footed_Albatross", 17, lines=2) == "001.Black_\nfooted_Albatross"
        assert fit_name("Atemayar_Qelisayer/character26", 17, lines=1) == "Atemayar…acter26"
        assert fit_name("Atemayar_Qelisayer/character26", 17, lines=2) == "Atemayar_\n…character26"


def test_shrink_averages_blocks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 8, 1), dtype=np.uint8)
    small = shrink(images, 3)
    blocks = images.reshape(3, 3, 4, 2, 4, 1).mean(axis=(2, 4))
    assert small.shape == (3, 3, 2, 1)
    assert np.abs(small - blocks).max() <= 1
    assert shrink(images, 9) is images
    assert shrink(np.repeat(images, 3, axis=-1), 3).shape == (3, 3, 2, 3)
