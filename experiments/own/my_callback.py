"""Callbacks of one's own.

lifted fit --config ../quickstart.yaml --trainer.callbacks+=my_callback.ClassCentres
lifted fit --config ../quickstart.yaml --trainer.callbacks+=my_callback.RecallOfClasses --trainer.callbacks.most=5
"""

from pathlib import Path

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning import Evaluation, UserError
from lifted_lightning.data.datamodule import data_of


class ClassCentres(Callback):
    """Writes the mean embedding of every class of an evaluation to ``centres_<stage>.npz`` in the run's folder.

    Whatever of Lightning's hooks a callback has; ``on_evaluation`` is this package's, and is called on every rank.
    """

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Take in all that an evaluation has found, each image once, the same on every rank.

        Among it are the embeddings, the classes, how each query fared, and its nearest images:
        ``(evaluation.labels[evaluation.ranking.nearest[:, 0]] == evaluation.ranking.labels).float().mean()``
        is Recall@1, but for ties. A metric of one's own is a class as in my_metric.py.
        """
        if trainer.is_global_zero:
            labels = evaluation.labels.cpu().numpy()
            embeddings = evaluation.embeddings.cpu().numpy()
            classes = np.unique(labels)
            centres = np.stack([embeddings[labels == c].mean(axis=0) for c in classes])
            path = Path(trainer.default_root_dir) / f"centres_{evaluation.stage}.npz"
            np.savez(path, classes=classes, centres=centres)


class RecallOfClasses(Callback):
    """Logs Recall@1 of each of some classes: ``validation/recall@1 of class NAME``, ``test/recall@1 of class NAME``.

    Args:
        most: how many classes, the same at each evaluation: those with the most queries.
    """

    def __init__(self, most: int = 10) -> None:
        if most < 1:
            raise UserError(f"most {most}: give at least 1 class")
        self.most = most

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Log on every rank, as Lightning asks for; what is logged once an evaluation is a line of ``metrics.csv``."""
        labels, recall, queries = evaluation.ranking.per_class_recall()
        names = data_of(trainer).class_names
        for i in queries.argsort(descending=True, stable=True)[: self.most].tolist():
            module.log(f"{evaluation.stage}/recall@1 of class {names[labels[i]]}", recall[i].float())
