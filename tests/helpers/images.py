"""A data set and networks in miniature, for tests that train: seconds count there, not what is learnt."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from lifted_lightning.data.datasets.base import RetrievalDataset
from lifted_lightning.data.table import ImageTable
from lifted_lightning.training.networks import Embedder

CLASSES, IMAGES, SIDE = 40, 8, 16


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


class NaNFrom(TinyNetwork):
    """Gives an embedding that is not a number in its third row, in training, from a call on."""

    def __init__(self, call: int = 3) -> None:
        super().__init__()
        self.calls_left = call

    def forward(self, images: Tensor) -> Tensor:
        embeddings = super().forward(images)
        if self.training:
            self.calls_left -= 1
            if self.calls_left <= 0:
                embeddings = embeddings.index_fill(0, embeddings.new_tensor([2]).long(), float("nan"))
        return embeddings


class Fault(Callback):
    """Something that goes wrong on one rank, at a training step.

    Args:
        rank: where.
        kind: ``raise`` an error, ``kill`` the process with SIGKILL, or ``hang`` for ten minutes.
        step: when.
        busy: seconds that every other rank then spends outside all communication.
    """

    def __init__(self, rank: int = 0, kind: str = "raise", step: int = 3, busy: float = 0.0) -> None:
        self.rank = rank
        self.kind = kind
        self.step = step
        self.busy = busy

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step != self.step:
            return
        if trainer.global_rank != self.rank:
            time.sleep(self.busy)
        elif self.kind == "raise":
            raise ValueError("my own error")
        elif self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            time.sleep(600)
