"""`lifted predict`: the embeddings of the test classes as one file, each image once."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.files import atomic
from lifted_lightning.metrics.embedding_set import gather_embedding_set


class PredictionFile(Callback):
    """Writes ``embeddings.npz`` into the run's folder: indices, embeddings, labels, items and class names.

    ``numpy.load(path)`` reads it back, without pickle.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        self._rows.append((outputs["indices"], outputs["embeddings"], outputs["labels"]))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        embedding_set = gather_embedding_set(*(torch.cat(parts) for parts in zip(*self._rows, strict=True)))
        if not trainer.is_global_zero:
            return
        path = Path(trainer.default_root_dir) / "embeddings.npz"
        indices = embedding_set.indices.cpu().numpy()
        with atomic(path) as file:
            np.savez(
                file,
                indices=indices,
                embeddings=embedding_set.embeddings.cpu().numpy(),
                labels=embedding_set.labels.cpu().numpy(),
                items=np.array(data_of(trainer).names(indices.tolist())),
                class_names=np.array(data_of(trainer).class_names),
            )
        print(f"{len(indices)} embeddings: {path}")
