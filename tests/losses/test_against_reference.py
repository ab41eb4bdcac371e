"""Every loss and option against the paper's formulas as plain float64 loops, on random batches."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
from tests.reference import losses as reference

CASES = {
    "contrastive": (
        ContrastiveLoss(0.9),
        lambda x, y: reference.contrastive_all(x, y, 0.9),
    ),
    "contrastive-consecutive": (
        ContrastiveLoss(1.5, pairs="consecutive"),
        lambda x, y: reference.contrastive_given(x, y, 1.5),
    ),
    "lifted": (LiftedStructureLoss(), lambda x, y: reference.lifted(x, y, 1.0, True)),
    "lifted-exact": (LiftedStructureLoss(smooth=False), lambda x, y: reference.lifted(x, y, 1.0, False)),
}
for _mining in ("all", "semihard", "hard"):
    for _average in ("active", "all"):
        for _squared in (False, True):
            CASES[f"triplet-{_mining}-{_average}-{'squared' if _squared else 'plain'}"] = (
                TripletLoss(0.3, _squared, _mining, _average),
                lambda x, y, m=_mining, a=_average, s=_squared: reference.triplet(x, y, 0.3, s, m, a),
            )


@st.composite
def batches(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (B, D) float64 and labels: B from 0 to 40, unbalanced classes, some rows repeated."""
    size = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, 8)), size) ** 2 - 3
    x = rng.normal(size=(size, draw(st.integers(1, 6)))) * draw(st.sampled_from([0.03, 0.5, 3.0]))
    if size and draw(st.booleans()):
        x = x[rng.integers(0, size, size)]
    return x, labels


@pytest.mark.parametrize("case", CASES)
@given(batch=batches())
def test_value(case: str, batch: tuple[np.ndarray, np.ndarray]) -> None:
    loss, truth = CASES[case]
    x, labels = batch
    value = loss(torch.from_numpy(x), torch.from_numpy(labels))
    assert value.item() == pytest.approx(truth(x, labels), rel=1e-9, abs=1e-12)
