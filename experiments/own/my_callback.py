"""A callback of one's own.

lifted fit --config ../quickstart.yaml --trainer.callbacks+=my_callback.ClassCentres
"""

from pathlib import Path

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning.metrics.collection import Evaluation


class ClassCentres(Callback):
    """Writes the mean embedding of every class of an evaluation to ``centres_<stage>.npz`` in the run's folder.

    Whatever of Lightning's hooks a callback has; ``on_evaluation`` is this package's, and is called on every rank.
    """

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Take in all that an evaluation has found, each image once, the same on every rank.

        Among it are the embeddings, the classes, how each query fared, and its nearest images:
        ``(evaluation.labels[evaluation.ranking.nearest[:, 0]] == evaluation.ranking.labels).float().mean()``
        is Recall@1, but for ties. ``module.log("test/mine", value)`` logs a metric of one's own.
        """
        if trainer.is_global_zero:
            labels = evaluation.labels.cpu().numpy()
            embeddings = evaluation.embeddings.cpu().numpy()
            classes = np.unique(labels)
            centres = np.stack([embeddings[labels == c].mean(axis=0) for c in classes])
            path = Path(trainer.default_root_dir) / f"centres_{evaluation.stage}.npz"
            np.savez(path, classes=classes, centres=centres)
