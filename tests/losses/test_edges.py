"""Every loss at the edges: batches with nothing to compare, coinciding points, extreme norms, odd labels."""

import pytest
import torch
from torch import Tensor

from lifted_lightning.errors import UserError
from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
from tests.helpers.losses import CASES


def points(size: int, scale: float = 1.0) -> Tensor:
    return torch.randn(size, 8, generator=torch.Generator().manual_seed(1)) * scale


def value_and_gradient(name: str, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    value = CASES[name].loss(x, labels)
    assert value.shape == ()
    assert value.requires_grad  # connected to the graph, whatever the value: DDP waits for every gradient
    value.backward()
    return value.detach(), x.grad


SINGLETONS, ONE_CLASS = torch.arange(12), torch.zeros(12, dtype=torch.int64)
MIXED = torch.tensor([0, 0, 1, 1, 2, 3, 4, 4, 4, 5, 6, 6])
BATCHES = {
    "no positives": (points(12), SINGLETONS),
    "no negatives": (points(12), ONE_CLASS),
    "singletons beside pairs": (points(12), MIXED),
    "one row": (points(1), ONE_CLASS[:1]),
    "no rows": (points(0), ONE_CLASS[:0]),
    "one positive pair": (points(2), ONE_CLASS[:2]),
    "one negative pair": (points(2), SINGLETONS[:2]),
    "identical positives": (points(12)[MIXED], MIXED),
    "identical negatives": (points(4).repeat(3, 1), torch.arange(3).repeat_interleave(4)),
    "all equal": (points(1).repeat(12, 1), MIXED),
    "all equal and large": (points(1, 1e4).repeat(12, 1), MIXED),
    "all zero": (torch.zeros(12, 8), MIXED),
    "tiny": (points(12, 1e-6), MIXED),
    "large": (points(12, 1e4), MIXED),
    "one far away": (torch.cat([points(11), points(1, 1e6)]), MIXED),
}


NO_NEGATIVE_OF_A_PAIR = ["no positives", "no negatives", "one positive pair", "one negative pair"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", BATCHES)
def test_finite_and_the_papers_and_exactly_zero_without_terms(name: str, batch: str) -> None:
    x, labels = BATCHES[batch]
    value, gradient = value_and_gradient(name, x, labels)
    assert gradient.isfinite().all()
    assert gradient.shape == x.shape
    truth = CASES[name].value(x.double().numpy(), labels.numpy())
    assert value.item() == pytest.approx(truth, rel=1e-5)
    without_term = ["one row", "no rows"] + NO_NEGATIVE_OF_A_PAIR * ("contrastive" not in name)
    if batch in without_term:
        assert value == 0
        assert not gradient.any()


@pytest.mark.parametrize("name", CASES)
def test_learned_batch_is_exactly_zero(name: str) -> None:
    labels = torch.arange(6).repeat_interleave(2)
    x = torch.eye(6, 200).repeat_interleave(2, 0) * 123.456 + 0.1
    value, gradient = value_and_gradient(name, x, labels)
    assert value == 0
    assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("name", CASES)
def test_labels_are_names_only(name: str) -> None:
    value, gradient = value_and_gradient(name, points(12), MIXED)
    names = torch.tensor([-(2**63), 2**63 - 1, -1, 10**15, 0, 7, 3])
    for labels in (names[MIXED], MIXED.int(), MIXED.to(torch.uint8)):
        other, other_gradient = value_and_gradient(name, points(12), labels)
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(other_gradient, gradient)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("labels", [MIXED, SINGLETONS, ONE_CLASS, MIXED[:11]])
def test_non_finite_embedding_gives_non_finite_loss(name: str, bad: float, labels: Tensor) -> None:
    for row in (0, len(labels) - 1):
        x = points(len(labels)).index_put((torch.tensor(row), torch.tensor(3)), torch.tensor(bad))
        assert not CASES[name].loss(x, labels).isfinite()


@pytest.mark.parametrize("name", CASES)
def test_misuse_is_an_error(name: str) -> None:
    loss = CASES[name].loss
    for x, labels, error, message in (
        (points(12)[None], MIXED, ValueError, r"shape \(B, D\)"),
        (points(12), MIXED[:11], ValueError, r"shape \(12,\), not \(11,\)"),
        (points(12), MIXED[:, None], ValueError, r"shape \(12,\), not \(12, 1\)"),
        (points(12), MIXED.float(), TypeError, "integers"),
        (points(12), MIXED.bool(), TypeError, "integers"),
        (points(12).long(), MIXED, TypeError, "floating point"),
    ):
        with pytest.raises(error, match=message):
            loss(x, labels)


@pytest.mark.parametrize(
    ("loss", "options", "error", "message"),
    [
        (ContrastiveLoss, {"pairs": "some"}, ValueError, "pairs"),
        (ContrastiveLoss, {"average": "some"}, ValueError, "average must be 'all' or 'active'"),
        (
            ContrastiveLoss,
            {"pairs": "consecutive", "average": "active"},
            UserError,
            "pairs=consecutive: .* average=all",
        ),
        (TripletLoss, {"mining": "easy"}, ValueError, "mining"),
        (TripletLoss, {"average": "none"}, ValueError, "average"),
    ],
)
def test_options_out_of_range_are_errors(loss: type, options: dict[str, str], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        loss(**options)


@pytest.mark.parametrize("name", CASES)
def test_second_derivative_is_refused_or_right(name: str) -> None:
    x = points(12).double().requires_grad_()
    loss = CASES[name].loss
    (gradient,) = torch.autograd.grad(loss(x, MIXED), x, create_graph=True)
    if name.startswith("contrastive-given"):
        assert torch.autograd.gradgradcheck(lambda x: loss(x, MIXED), x)
    else:
        with pytest.raises(RuntimeError):
            gradient.square().sum().backward()


def test_diagnostics_count_the_active_terms() -> None:
    x, labels = torch.tensor([[0.0], [1.0], [3.0], [3.5]]), torch.tensor([0, 0, 1, 1])
    assert ContrastiveLoss(2.5).diagnostics(x, labels)["active_share"] == 1 / 4  # |1 − 3| = 2; 2.5 is not active
    assert TripletLoss(1.1).diagnostics(x, labels)["active_share"] == 1 / 8  # 1 − 2 + 1.1
    assert TripletLoss(1.1, mining="hard").diagnostics(x, labels)["active_share"] == 1 / 4
    assert LiftedStructureLoss(0.6, smooth=True).diagnostics(x, labels)["active_share"] == 1 / 2
    loss = ContrastiveLoss(2.5, pairs="consecutive", average="all")
    given = loss.diagnostics(x[[0, 1, 1, 2, 0, 3]], labels[[0, 1, 1, 2, 0, 3]])
    assert given["active_share"] == 1 / 2
    for case in CASES.values():
        share = case.loss.diagnostics(x.requires_grad_(), labels)["active_share"]
        assert share.shape == ()
        assert not share.requires_grad
