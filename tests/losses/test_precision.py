"""float32, half precision and autocast against float64 on the same inputs, where distances are hard."""

import pytest
import torch
from torch import Tensor

from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, pairs
from tests.helpers.losses import CASES
from tests.helpers.reference import dense, loops

LABELS = torch.arange(8).repeat_interleave(3)
CASES_WITH_TRUTH = [name for name in CASES if CASES[name].dense]


def batch(kind: str) -> Tensor:
    """Embeddings (24, 16), float32."""
    generator = torch.Generator().manual_seed(7)
    x, centres = (torch.randn(24, 16, generator=generator) for _ in range(2))
    if kind.startswith("norm"):
        return torch.nn.functional.normalize(x) * float(kind.split()[1])
    if kind == "far-off centre":
        return torch.nn.functional.normalize(centres[0], dim=0) * 100 + x * 0.01
    if kind == "very far-off centre":  # the coordinates' own spacing is 0.008
        return centres[0] * 1e5 + x * 0.05
    if kind == "close positives":
        return centres[LABELS] + x * 1e-4
    if kind == "two collapsed centres":  # negatives as close as positives, far from the mean
        return centres[torch.arange(24) % 2] * 10 + x * 1e-3
    if kind == "one outlier":
        return torch.cat([x[:23], x[23:] * 1e5])
    raise ValueError(kind)


KINDS = [
    "norm 1e-3",
    "norm 1",
    "norm 1e3",
    "far-off centre",
    "very far-off centre",
    "close positives",
    "two collapsed centres",
]


def relative(ours: Tensor, truth: Tensor) -> float:
    return float((ours.detach().double() - truth.detach()).norm() / truth.detach().norm().clamp_min(1e-300))


@pytest.mark.parametrize("name", CASES_WITH_TRUTH)
@pytest.mark.parametrize("kind", [*KINDS, "one outlier"])
@pytest.mark.parametrize("way", ["whole", "blocks", "float64"])
def test_float32_is_right(monkeypatch: pytest.MonkeyPatch, way: str, name: str, kind: str) -> None:
    """Also where most pairs are close: 'close positives' are mended, with 'one outlier' products are float64."""
    if way == "blocks":
        monkeypatch.setattr(pairs, "BLOCK_ENTRIES_CPU", 1)
        monkeypatch.setattr(pairs, "BLOCK_ROWS", 5)
    elif way == "float64":
        monkeypatch.setattr(pairs, "is_compiling", lambda: True)
    ours = batch(kind).requires_grad_()
    truth = ours.detach().double().requires_grad_()
    value, true_value = CASES[name].loss(ours, LABELS), CASES[name].dense(truth, LABELS)
    assert value.dtype == torch.float32
    assert relative(value, true_value) <= 1e-6
    value.backward()
    true_value.backward()
    assert relative(ours.grad, truth.grad) <= 2e-6


@pytest.mark.parametrize("temperatures", [1e3, 1e5, 1e7])
@pytest.mark.parametrize("way", ["whole", "float64"])
def test_lifted_keeps_its_digits_far_beyond_its_temperature(
    monkeypatch: pytest.MonkeyPatch, way: str, temperatures: float
) -> None:
    """Distances of so many temperatures: then a few negatives are all of the sum, and its limit is eq. 3."""
    if way == "float64":
        monkeypatch.setattr(pairs, "is_compiling", lambda: True)
    options = {"margin": 0.1, "smooth": 1 / temperatures}
    ours = batch("norm 1").requires_grad_()
    truth = ours.detach().double().requires_grad_()
    value = LiftedStructureLoss(**options)(ours, LABELS)
    value.backward()
    dense.lifted(truth, LABELS, **options).backward()
    assert value.item() == pytest.approx(loops.lifted(truth.detach().numpy(), LABELS.numpy(), **options), rel=1e-6)
    assert relative(ours.grad, truth.grad) <= 1e-5


@pytest.mark.parametrize("name", CASES_WITH_TRUTH)
@pytest.mark.parametrize("classes", [128, 8], ids=["close positives", "collapsed classes"])
@pytest.mark.parametrize("apart", [1e-5, 1e-3, 0.05, 0.15])
def test_close_pairs_are_right(name: str, classes: int, apart: float) -> None:
    """Pairs of four: few of the batch's, and mended; or in eight points, so many that products are float64."""
    generator = torch.Generator().manual_seed(11)
    labels = torch.arange(256) // (256 // classes)
    centres = torch.nn.functional.normalize(torch.randn(classes, 64, generator=generator))
    ours = centres[labels] + apart / 8 * torch.randn(256, 64, generator=generator)
    ours, truth = ours.requires_grad_(), ours.detach().double().requires_grad_()
    value, true_value = CASES[name].loss(ours, labels // 2), CASES[name].loss(truth, labels // 2)
    value.backward()
    true_value.backward()
    assert relative(value, true_value) <= 1e-6
    assert relative(ours.grad, truth.grad) <= 2e-5  # of a million triplets one may be active here and not there


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_full(name: str, dtype: torch.dtype, autocast: bool) -> None:
    ours = (batch("norm 1") if autocast else batch("norm 1").to(dtype)).requires_grad_()
    exact = ours.detach().float().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=autocast):
        value = CASES[name].loss(ours, LABELS)
        value.backward()
    truth = CASES[name].loss(exact, LABELS)
    truth.backward()
    assert value.dtype == torch.float32
    assert value == truth
    assert ours.grad.dtype == ours.dtype
    assert torch.equal(ours.grad, exact.grad.to(ours.dtype))


def test_scaled_loss_reaches_half_precision_unharmed() -> None:
    """A gradient scaler multiplies before the gradient is rounded to float16, not after."""
    x = (batch("norm 1") * 1e-4).half().requires_grad_()
    exact = x.detach().double().requires_grad_()
    (LiftedStructureLoss(1.0, smooth=True)(x, LABELS) * 1024).backward()
    (LiftedStructureLoss(1.0, smooth=True)(exact, LABELS) * 1024).backward()
    assert relative(x.grad, exact.grad) < 1e-3


@pytest.mark.parametrize("width", [2, 512, 3000])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_copies_are_at_distance_zero(width: int, scale: float) -> None:
    x = torch.randn(20, width, generator=torch.Generator().manual_seed(0)) * scale + scale
    assert ContrastiveLoss(margin=0.0)(x.repeat(2, 1), torch.arange(20).repeat(2)) == 0


def test_products_that_are_rounded_to_bfloat16_are_not_used() -> None:
    x = batch("norm 1")
    assert not next(pairs.PairBlocks(x, LABELS).blocks()).wide
    torch.set_float32_matmul_precision("medium")
    try:
        assert next(pairs.PairBlocks(x, LABELS).blocks()).wide
    finally:
        torch.set_float32_matmul_precision("highest")
