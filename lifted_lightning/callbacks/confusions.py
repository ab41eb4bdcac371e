"""The pairs of classes that are most often taken for one another, drawn beside training."""

from collections import Counter
from typing import Any

import numpy as np
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError, counted
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.pictures.style import shrink


class ConfusedClasses(BackgroundPicture):
    """Draws pairs of classes that are taken for one another, the most frequent first, with how often, both ways.

    Of each pair the query is shown that is nearest to an image of the other class, and that image. Where no class is
    taken for another, nothing is drawn.

    Args:
        pairs: how many at most.
        **of_all: ``seed``, ``every_n`` and ``timeout``, as every ``BackgroundPicture`` takes them.
    """

    name = "confusions"

    def __init__(self, pairs: int = 12, **of_all: Any) -> None:
        super().__init__(**of_all)
        if pairs < 1:
            raise UserError(f"confusions.pairs {pairs}: give at least 1")
        self.pairs = pairs

    def inputs(self, trainer: Trainer, evaluation: Evaluation) -> Inputs | None:
        """Choose what is shown here; draw there."""
        ranking, labels = evaluation.ranking, evaluation.labels.tolist()
        of_class = Counter(ranking.labels[ranking.answerable].tolist())  # queries
        ordered, counts = (part.tolist() for part in evaluation.confusions())
        times = Counter(dict(zip(map(tuple, ordered), counts, strict=True)))
        wrong = (ranking.rank > 1).nonzero()[:, 0]
        wrong = wrong[ranking.distances[wrong, :1].flatten().argsort(stable=True)]
        examples: dict[frozenset[int], tuple[int, int]] = {}  # of each pair of classes the nearest query and image
        for query, image in zip(
            ranking.queries[wrong].tolist(), ranking.nearest[wrong, :1].flatten().tolist(), strict=True
        ):
            if labels[query] != labels[image]:
                examples.setdefault(frozenset((labels[query], labels[image])), (query, image))
        together = {pair: times[tuple(pair)] + times[tuple(pair)[::-1]] for pair in examples}
        chosen = sorted(together, key=lambda pair: -together[pair])[: self.pairs]
        if not chosen:
            return None
        shown = np.array([examples[pair] for pair in chosen])
        classes = [(labels[query], labels[image]) for query, image in shown]
        data, rows = data_of(trainer), evaluation.rows.cpu().numpy()[shown]
        images = shrink(data.thumbnails(rows.flatten()), 128)
        mistakes = f"{sum(together[pair] for pair in chosen):,} of {times.total():,} mistakes"
        told = f"{len(chosen)} of {counted(len(together), 'pair')} of classes, with {mistakes}"
        return {
            "images": images.reshape(*rows.shape, *images.shape[1:]),
            "names": np.array([[data.class_names[label] for label in pair] for pair in classes]),
            "times": np.array([[times[pair], times[pair[::-1]]] for pair in classes]),
            "queries": np.array([[of_class[label] for label in pair] for pair in classes]),
            "subtitle": f"Classes taken for one another: {told}",
        }
