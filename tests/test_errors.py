"""What lines for people are made of."""

import pytest

from lifted_lightning.errors import counted


@pytest.mark.parametrize(
    ("number", "things", "text"),
    [(1, "class", "1 class"), (0, "class", "0 classes"), (2, "image", "2 images"), (12345, "trial", "12,345 trials")],
)
def test_one_thing_is_no_plural(number: int, things: str, text: str) -> None:
    assert counted(number, things) == text
