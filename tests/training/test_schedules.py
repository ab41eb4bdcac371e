"""The warmup schedule: its shape, and that it keeps the groups' different rates."""

import pytest
import torch
from torch import nn

from lifted_lightning.training.schedules import WarmupCosine


def rates(steps: int, warmup: float, *base: float) -> list[list[float]]:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in base]
    optimizer = torch.optim.SGD(groups)
    scheduler = WarmupCosine(optimizer, steps, warmup)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return seen


def test_it_rises_to_the_rate_then_falls_by_a_cosine_to_0():
    seen = [rate for (rate,) in rates(10, 0.2, 1.0)]
    fall = 0.5 * (1 + torch.cos(torch.pi * torch.arange(8) / 8))
    assert seen == pytest.approx([1 / 3, 2 / 3, *fall.tolist()], abs=1e-6)


def test_without_warmup_it_is_torch_s_cosine():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=7)
    for (rate,) in rates(7, 0.0, 0.3):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()


def test_groups_keep_their_ratio():
    assert all(head == pytest.approx(10 * trunk) for trunk, head in rates(20, 0.15, 0.1, 1.0))


def test_at_the_end_the_rate_is_0_and_stays():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupCosine(optimizer, steps=3)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0)
