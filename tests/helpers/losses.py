"""Every loss and option beside its two references, and batches to try them on."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from torch import Tensor, nn

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
from tests.helpers.reference import dense, loops


class Case(NamedTuple):
    """A loss, the value by the paper's loops, and a dense form for autograd (None if it is one)."""

    loss: nn.Module
    value: Callable[[np.ndarray, np.ndarray], float]
    dense: Callable[[Tensor, Tensor], Tensor] | None


CASES: dict[str, Case] = {}
for _squared in (True, False):
    _options = {"margin": 1.5, "squared": _squared}
    CASES["contrastive-given" + "-linear" * (not _squared)] = Case(
        ContrastiveLoss(pairs="consecutive", average="all", **_options),
        partial(loops.contrastive_given, **_options),
        None,
    )
    for _average in ("all", "active"):
        _options = {"margin": 0.9, "average": _average, "squared": _squared}
        CASES[f"contrastive-{_average}" + "-linear" * (not _squared)] = Case(
            ContrastiveLoss(**_options),
            partial(loops.contrastive_all, **_options),
            partial(dense.contrastive, **_options),
        )
for _name, _smooth in (("lifted", True), ("lifted-cold", 0.3), ("lifted-eq3", False)):
    _options = {"margin": 1.0, "smooth": _smooth}
    CASES[_name] = Case(
        LiftedStructureLoss(**_options), partial(loops.lifted, **_options), partial(dense.lifted, **_options)
    )
for _mining in ("all", "semihard", "hard"):
    for _squared, _average in ((False, "active"), (False, "all"), (True, "active"), (True, "all")):
        _options = {"margin": 0.3, "squared": _squared, "mining": _mining, "average": _average}
        CASES[f"triplet-{_mining}-{_average}" + "-squared" * _squared] = Case(
            TripletLoss(**_options), partial(loops.triplet, **_options), partial(dense.triplet, **_options)
        )


@st.composite
def batches(draw: st.DrawFn, largest: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings (B, D) float64 and labels: B from 0, unbalanced classes, some rows repeated."""
    size = draw(st.integers(0, largest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, 8)), size) ** 2 - 3
    x = rng.normal(size=(size, draw(st.integers(1, 6)))) * draw(st.sampled_from([0.03, 0.5, 3.0]))
    if size and draw(st.booleans()):
        x = x[rng.integers(0, size, size)]
    return x, labels
