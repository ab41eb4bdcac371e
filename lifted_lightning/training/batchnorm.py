"""Batch normalisation over the global batch on the CPU, where torch's own is for GPUs only."""

from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.layer_sync import TorchSyncBatchNorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lifted_lightning.distributed import sum_over_ranks, world_size
from lifted_lightning.training.networks import batchnorms


class SyncBatchNorm(_BatchNorm):
    """What ``torch.nn.SyncBatchNorm`` does on GPUs, for ranks with equally many rows, in plain torch."""

    def _check_input_dim(self, input: Tensor) -> None: ...

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (b, C, ...) by the statistics of all ranks' rows; in evaluation by the running ones."""
        if not self.training:
            return super().forward(input)
        rows = input if input.dtype == torch.float64 else input.float()
        others = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        mean = _mean_over_ranks(rows.mean(others))
        centred = rows - mean.view(shape)
        variance = _mean_over_ranks(centred.square().mean(others))
        self._track(mean.detach(), variance.detach(), rows.numel() // len(mean) * world_size())
        normal = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normal = torch.addcmul(self.bias.view(shape), normal, self.weight.view(shape))
        return normal.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.num_batches_tracked is None or self.running_mean is None or self.running_var is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), momentum)
        self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), momentum)


class SyncBatchNormLayers(TorchSyncBatchNorm):
    """What ``trainer.sync_batchnorm`` does, and on the CPU too. A plugin of Lightning's trainer."""

    def __init__(self) -> None:
        self._replaced: list[tuple[_BatchNorm, type[_BatchNorm]]] = []

    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise every batch normalisation of a module that a trainer is about to train."""
        if cast(LightningModule, model).trainer.strategy.root_device.type != "cpu":
            return super().apply(model)
        layers = batchnorms(model)
        self._replaced = [(layer, type(layer)) for layer in layers]
        for layer in layers:
            layer.__class__ = SyncBatchNorm  # the same parameters and buffers, another forward
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Give the layers back what they were."""
        for layer, kind in self._replaced:
            layer.__class__ = kind
        self._replaced = []
        return super().revert(model)


class _SumOverRanks(torch.autograd.Function):
    """Every rank's values added up; so is what flows back, for each rank's outputs depend on the sum."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return sum_over_ranks(gradient)


def _mean_over_ranks(values: Tensor) -> Tensor:
    return _SumOverRanks.apply(values) / world_size()
