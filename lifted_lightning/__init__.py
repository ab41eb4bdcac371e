"""A research template for deep metric learning on PyTorch Lightning.

The public names, each to be had as ``lifted_lightning.NAME``; they stay as they are from version to version. Importing
the package imports nothing else: each name brings what it needs when it is first used.

Use a model:
    load: a checkpoint of ``lifted fit`` as a TrainedModel.
    TrainedModel: embeds paths or images with ``model.embed(...)``.

Train, by class path from outside the package:
    EmbeddingModule: network, loss and optimiser; a paper that needs more overrides its ``compute_loss``.
    RetrievalDataModule: a data set as batches and as evaluation sets.
    RetrievalDataset: base class of a data set of one's own.
    ImageTable: what a data set becomes: images, labels, and which of them train.
    Augmentation: base class of an augmentation of one's own.
    Embedder: base class of networks; ConvNet and EmbeddingNetwork (torchvision, timm) are such.

Losses, of embeddings (B, D) and labels (B,); any ``nn.Module`` of that kind will do:
    ContrastiveLoss, TripletLoss, LiftedStructureLoss.

Evaluation:
    retrieval_metrics: Recall@K, R-precision and MAP@R of embeddings.
    clustering_metrics: NMI, AMI and F1 of a clustering of them.
    nearest: exact nearest neighbours.

UserError: what is raised for a mistake in what the user gave, with one line that says what to do.
"""

import importlib
from typing import TYPE_CHECKING, Any

from lifted_lightning.errors import UserError

if TYPE_CHECKING:
    from lifted_lightning.data.augment import Augmentation
    from lifted_lightning.data.datamodule import RetrievalDataModule
    from lifted_lightning.data.datasets.base import RetrievalDataset
    from lifted_lightning.data.table import ImageTable
    from lifted_lightning.embedder import TrainedModel, load
    from lifted_lightning.losses import ContrastiveLoss, LiftedStructureLoss, TripletLoss
    from lifted_lightning.metrics import clustering_metrics, nearest, retrieval_metrics
    from lifted_lightning.module import EmbeddingModule
    from lifted_lightning.networks import ConvNet, Embedder, EmbeddingNetwork

__version__ = "0.1.0"

__all__ = [
    "Augmentation",
    "ContrastiveLoss",
    "ConvNet",
    "Embedder",
    "EmbeddingModule",
    "EmbeddingNetwork",
    "ImageTable",
    "LiftedStructureLoss",
    "RetrievalDataModule",
    "RetrievalDataset",
    "TrainedModel",
    "TripletLoss",
    "UserError",
    "clustering_metrics",
    "load",
    "nearest",
    "retrieval_metrics",
]

_HOMES = {
    "data.augment": ("Augmentation",),
    "data.datamodule": ("RetrievalDataModule",),
    "data.datasets.base": ("RetrievalDataset",),
    "data.table": ("ImageTable",),
    "embedder": ("TrainedModel", "load"),
    "losses": ("ContrastiveLoss", "LiftedStructureLoss", "TripletLoss"),
    "metrics": ("clustering_metrics", "nearest", "retrieval_metrics"),
    "module": ("EmbeddingModule",),
    "networks": ("ConvNet", "Embedder", "EmbeddingNetwork"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lifted_lightning.{home}"), name)
    raise AttributeError(f"module 'lifted_lightning' has no attribute {name!r}")
