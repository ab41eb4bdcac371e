"""Names that fit beside a picture, and images made smaller."""

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lifted_lightning.pictures.style import shrink, wrapped


@settings(max_examples=25)
@given(st.text(max_size=80), st.integers(6, 20), st.integers(1, 3))
def test_names_fit_and_begin_as_they_do(name: str, columns: int, lines: int) -> None:
    broken = wrapped(name, columns, lines).split("\n")
    assert 1 <= len(broken) <= lines
    assert all(len(line) <= columns for line in broken) or broken == ["(no name)"]
    shown, whole = (re.sub(r"[\s_]", "", text) for text in ("".join(broken), name))
    assert whole.startswith(shown.removesuffix("…")) or shown == "(noname)"


def test_names_are_broken_at_signs_and_wide_characters_count_twice() -> None:
    assert wrapped("001.Black_footed_Albatross", 17, 2) == "001.Black_\nfooted_Albatross"
    assert wrapped("Atemayar_Qelisayer/character26", 17, 3) == "Atemayar_\nQelisayer/\ncharacter26"
    assert wrapped("Latin/a", 17, 3) == "Latin/a"
    assert wrapped("one two three four", 9, 1) == "one two…"
    assert wrapped("黒" * 10, 16, 2) == "黒" * 8 + "\n" + "黒" * 2
    assert wrapped(" ", 9, 1) == "(no name)"


def test_shrink_averages_blocks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 12, 8, 1), dtype=np.uint8)
    small = shrink(images, 3)
    blocks = images.reshape(3, 3, 4, 2, 4, 1).mean(axis=(2, 4))
    assert small.shape == (3, 3, 2, 1)
    assert np.abs(small - blocks).max() <= 1
    assert shrink(images, 9) is images
    assert shrink(np.repeat(images, 3, axis=-1), 3).shape == (3, 3, 2, 3)
