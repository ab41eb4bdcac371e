"""Batch samplers: what the global batch of each training step holds."""

from lifted_lightning.data.batches.balanced import PositivePairs
from lifted_lightning.data.batches.base import GlobalBatchSampler
from lifted_lightning.data.batches.released import ReleasedPairs

__all__ = ["GlobalBatchSampler", "PositivePairs", "ReleasedPairs"]
