"""pytorch-metric-learning's losses, un-normalised, as oracles."""

import pytest
import torch
from pytorch_metric_learning import distances, losses, reducers
from torch import Tensor

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss

LABELS = torch.tensor([3, 3, 3, 8, 8, 1, 1, 1, 1, 5, 6, 6, 6, 9, 9, 4])


def distance(power: int = 1) -> torch.nn.Module:
    return distances.LpDistance(normalize_embeddings=False, power=power)


def both(ours, theirs) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Value and gradient of two losses on the same float64 batch."""
    found = []
    for loss in (ours, theirs):
        x = torch.randn(16, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).requires_grad_()
        value = loss(x, LABELS)
        found.append((value.detach(), *torch.autograd.grad(value, x)))
    return found[0], found[1]


def test_lifted() -> None:
    theirs = losses.LiftedStructureLoss(neg_margin=1, pos_margin=0, distance=distance())
    torch.testing.assert_close(*both(LiftedStructureLoss(1.0, smooth=True), theirs), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("average", ["active", "all"])
def test_triplet(squared: bool, average: str) -> None:
    """Theirs has no factor ½."""
    reducer = reducers.AvgNonZeroReducer() if average == "active" else reducers.MeanReducer()
    theirs = losses.TripletMarginLoss(margin=0.7, distance=distance(1 + squared), reducer=reducer)
    ours = TripletLoss(0.7, squared=squared, average=average)
    torch.testing.assert_close(*both(lambda x, y: 2 * ours(x, y), theirs), rtol=1e-5, atol=1e-8)


def test_contrastive() -> None:
    """Theirs has no factor ½, and leaves positives at distance 0 out of the mean, of which there are none here."""
    theirs = losses.ContrastiveLoss(pos_margin=0, neg_margin=2, distance=distance())
    ours = ContrastiveLoss(2.0, average="active", squared=False)
    torch.testing.assert_close(*both(lambda x, y: 2 * ours(x, y), theirs), rtol=1e-5, atol=1e-8)
