"""The t-SNE plot of an evaluation's embeddings, drawn beside training."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.pictures.style import shrink
from lifted_lightning.pictures.tsne_map import stratified_sample


class TSNEPlot(BackgroundPicture):
    """Draws a t-SNE map of the embeddings, coloured by class, with the images of some of its points.

    Up to ten classes have a colour each, and their names below the map; with more than twenty, colours repeat, and
    the images tell which class is which.

    Args:
        points: how many images to draw at most; a share of each class, or, with very many classes, some of
            the classes with five images each on average.
        thumbnails: how many of the points may show their image; those that would overlap do not.
        perplexity: of t-SNE.
        **of_all: ``seed``, ``every_n`` and ``timeout``, as every ``BackgroundPicture`` takes them.
    """

    name = "tsne"

    def __init__(self, points: int = 2000, thumbnails: int = 500, perplexity: float = 30.0, **of_all: Any) -> None:
        super().__init__(**of_all)
        if points < 1 or thumbnails < 0 or not 0 < perplexity < float("inf"):
            raise UserError(
                f"tsne.points {points}, thumbnails {thumbnails}, perplexity {perplexity:g}: give at least 1, "
                "at least 0, and a finite number above 0"
            )
        self.points = points
        self.thumbnails = thumbnails
        self.perplexity = perplexity

    def inputs(self, trainer: Trainer, evaluation: Evaluation) -> Inputs:
        """Sample the points here, so that little is handed over; project and draw there."""
        data = data_of(trainer)
        labels = evaluation.labels.cpu().numpy()
        sample = stratified_sample(labels, self.points, self.seed)
        pictured = np.random.default_rng(self.seed).permutation(len(sample))[: self.thumbnails]
        rows = evaluation.rows.cpu().numpy()[sample[pictured]]
        classes, relabelled = np.unique(labels[sample], return_inverse=True)
        subtitle = (
            f"t-SNE of {len(sample):,} of {len(labels):,} images, "
            f"{len(classes):,} of {len(np.unique(labels)):,} classes"
        )
        return {
            "embeddings": evaluation.embeddings[torch.from_numpy(sample)].float().cpu().numpy(),
            "labels": relabelled,
            "class_names": np.array([data.class_names[c] for c in classes]),
            "thumbnails": shrink(data.thumbnails(rows), 48),
            "pictured": pictured,
            "subtitle": subtitle,
            "seed": self.seed,
            "perplexity": self.perplexity,
        }
