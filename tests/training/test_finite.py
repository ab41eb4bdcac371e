"""A loss that is not finite ends the run before the optimiser's step, and names the images."""

from collections.abc import Sequence

import pytest
import torch

from lifted_lightning.errors import RunError
from lifted_lightning.training.module import FiniteLoss


def names(rows: Sequence[int]) -> list[str]:
    return [f"image-{row}.jpg" for row in rows]


def ask(loss: float, bad_rows: Sequence[int] = ()) -> FiniteLoss:
    embeddings = torch.zeros(8, 4)
    for row in bad_rows:
        embeddings[row, 1] = torch.inf
    finite = FiniteLoss()
    finite.ask(torch.tensor(loss), embeddings, torch.arange(100, 108))
    return finite


def test_a_finite_loss_passes() -> None:
    ask(1.5).check(3, names)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_rows_and_images_are_named(loss: float) -> None:
    with pytest.raises(RunError) as caught:
        ask(loss, [2, 5]).check(17, names)
    message = str(caught.value)
    assert f"{loss} at step 17" in message
    assert "batch rows [2, 5]: image-102.jpg, image-105.jpg" in message
    assert "\n" not in message


def test_three_are_named_and_the_others_counted() -> None:
    with pytest.raises(RunError, match=r"8 embeddings.*image-102.jpg and 5 more"):
        ask(float("nan"), range(8)).check(0, names)


def test_a_loss_of_finite_embeddings_is_told_apart() -> None:
    with pytest.raises(RunError, match="all embeddings are finite"):
        ask(float("nan")).check(0, names)


def test_an_answer_is_read_once() -> None:
    finite = ask(float("nan"))
    with pytest.raises(RunError):
        finite.check(0, names)
    finite.check(1, names)
