"""A callback of one's own.

lifted fit --config experiments/quickstart.yaml --trainer.callbacks+=my_callback.ClassCentres
"""

from pathlib import Path

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning.metrics import EmbeddingSet


class ClassCentres(Callback):
    """Writes the mean embedding of every class of an evaluation to ``centres_<stage>.npz`` in the run's folder.

    Whatever of Lightning's hooks a callback has; ``on_embedding_set`` is this package's, and is called on every rank.
    """

    def on_embedding_set(
        self, trainer: Trainer, module: LightningModule, stage: str, embedding_set: EmbeddingSet
    ) -> None:
        """Take in all embeddings of an evaluation, each item once, the same on every rank."""
        if trainer.is_global_zero:
            labels = embedding_set.labels.cpu().numpy()
            embeddings = embedding_set.embeddings.cpu().numpy()
            classes = np.unique(labels)
            centres = np.stack([embeddings[labels == c].mean(axis=0) for c in classes])
            np.savez(Path(trainer.default_root_dir) / f"centres_{stage}.npz", classes=classes, centres=centres)
