"""Every loss and option against the paper's formulas: values against loops, gradients against autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from lifted_lightning.losses import LiftedStructureLoss
from tests.helpers.losses import CASES, batches
from tests.helpers.reference import loops

Batch = tuple[np.ndarray, np.ndarray]


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=15)
@given(batch=batches())
def test_value_is_the_papers(way: str, name: str, batch: Batch) -> None:
    x, labels = batch
    value = CASES[name].loss(torch.from_numpy(x), torch.from_numpy(labels))
    assert value.item() == pytest.approx(CASES[name].value(x, labels), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].dense])
@settings(max_examples=15)
@given(batch=batches(24))
def test_gradient_is_that_of_the_dense_form(way: str, name: str, batch: Batch) -> None:
    x, labels = torch.from_numpy(np.unique(batch[0], axis=0)), torch.from_numpy(batch[1])
    labels = labels[: len(x)]  # without copies: where hinges tie, autograd and we may take different subgradients
    ours, truth = x.clone().requires_grad_(), x.clone().requires_grad_()
    CASES[name].loss(ours, labels).backward()
    if len(x):
        CASES[name].dense(truth, labels).backward()
        torch.testing.assert_close(ours.grad, truth.grad, rtol=1e-7, atol=1e-9)


@given(batch=batches())
def test_eq_4_bounds_eq_3(batch: Batch) -> None:
    x, labels = map(torch.from_numpy, batch)
    exact, cold, warm = (LiftedStructureLoss(1.0, smooth)(x, labels) for smooth in (0.0, 0.05, True))
    assert warm >= exact * (1 - 1e-12)
    assert cold >= exact * (1 - 1e-12)


@given(batch=batches())
def test_a_temperature_is_a_length(batch: Batch) -> None:
    """tau^2 times the paper's loss of embeddings 1/tau times as long."""
    x, labels = map(torch.from_numpy, batch)
    paper = LiftedStructureLoss(3.0, smooth=True)(8 * x, labels)
    torch.testing.assert_close(LiftedStructureLoss(3 / 8, smooth=1 / 8)(x, labels), paper / 64)
    assert LiftedStructureLoss(3.0, smooth=1.0)(8 * x, labels) == paper


@given(batch=batches(20))
def test_lifted_gradient_is_eq_5_and_6(batch: Batch) -> None:
    """The released code's hand-written derivative by the distances, carried on to the embeddings."""
    x, labels = batch
    found, terms = loops.positive_pairs(labels), loops.lifted_terms(x, labels, 1.0, True)
    truth = np.zeros_like(x)

    def add(i: int, j: int, by_distance: float) -> None:
        d = loops.distance(x, i, j)
        if d > 0:
            truth[i] += by_distance * (x[i] - x[j]) / d
            truth[j] -= by_distance * (x[i] - x[j]) / d

    for (i, j), term in zip(found, terms, strict=True):
        if term <= 0:
            continue
        add(i, j, term / len(found))  # eq. 5
        lifts = np.exp(term - loops.distance(x, i, j))
        for end in (i, j):  # eq. 6
            for k in np.flatnonzero(labels != labels[end]):
                add(end, k, -term / len(found) * np.exp(1 - loops.distance(x, end, k)) / lifts)
    ours = torch.from_numpy(x).requires_grad_()
    LiftedStructureLoss(1.0, smooth=True)(ours, torch.from_numpy(labels)).backward()
    np.testing.assert_allclose(ours.grad.numpy(), truth, rtol=1e-9, atol=1e-10)
