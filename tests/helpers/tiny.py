"""A data set and a network in miniature, for tests that train: seconds count there, not what is learnt."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning import Trainer
from torch import nn

from lifted_lightning.data.datasets.base import RetrievalDataset
from lifted_lightning.data.table import ImageTable
from lifted_lightning.training.networks import Embedder

CLASSES, IMAGES, SIDE = 40, 8, 16
FIT = [
    "fit", "--model.network=tests.helpers.tiny.TinyNetwork", "--model.loss=LiftedStructureLoss",
    "--model.augment=CropMirror", "--model.augment.size=12", "--data.dataset=tests.helpers.tiny.Blobs",
    "--data.size=16", "--data.channels=1", "--data.batch_size=16", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--evaluation.baseline=false", "--evaluation.clustering=none",
    "--experiment=e",
]  # fmt: skip


def silent_trainer(**settings: Any) -> Trainer:
    """Lightning's trainer on the CPU, which logs, saves and shows nothing but what it is told to."""
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    silent |= {"enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0}
    return Trainer(**{**silent, "accelerator": "cpu", **settings})


class Blobs(RetrievalDataset):
    """40 classes of 8 grey images of 16 x 16 pixels: the class's pattern under noise. Half of them train."""

    name = "blobs"
    title = "Blobs"

    def table(self, root: Path) -> ImageTable:
        labels = np.repeat(np.arange(CLASSES), IMAGES)
        rows = np.arange(len(labels))
        trains = labels < CLASSES // 2
        return ImageTable(
            name=self.name,
            labels=labels,
            class_names=[f"class {c}" for c in range(CLASSES)],
            train=rows[trains],
            test=rows[~trains],
            items=[f"{c}/{i}" for c in range(CLASSES) for i in range(IMAGES)],
            reader=blob,
            key="blobs-1",
        )


def blob(item: str) -> Image.Image:
    """The image ``class/number``."""
    label, number = map(int, item.split("/"))
    pattern = np.random.default_rng(label).normal(size=(SIDE, SIDE))
    noise = np.random.default_rng((label, number)).normal(size=(SIDE, SIDE))
    return Image.fromarray(np.clip(128 + 40 * pattern + 60 * noise, 0, 255).astype(np.uint8))


class TinyNetwork(Embedder):
    """One hidden layer of 16 units, without batch statistics unless they are asked for."""

    def __init__(self, embedding_size: int = 8, batchnorm: bool = False, dropout: float = 0.0) -> None:
        hidden: list[nn.Module] = [nn.Flatten(), nn.Linear(12 * 12, 16)]
        if batchnorm:
            hidden.append(nn.BatchNorm1d(16))
        super().__init__(nn.Sequential(*hidden, nn.Tanh()), 16, embedding_size, dropout, normalize=False)
