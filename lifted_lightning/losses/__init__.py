"""The three losses of the paper, contrastive, triplet and lifted structure, and a memory for them."""

from lifted_lightning.losses.contrastive import ContrastiveLoss
from lifted_lightning.losses.lifted import LiftedStructureLoss
from lifted_lightning.losses.memory import CrossBatchMemory
from lifted_lightning.losses.triplet import TripletLoss

__all__ = ["ContrastiveLoss", "CrossBatchMemory", "LiftedStructureLoss", "TripletLoss"]
