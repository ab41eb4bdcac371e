"""The retrieval gallery: queries with their nearest neighbours, drawn beside training."""

from typing import Any

import numpy as np
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.pictures.gallery import ABSENT, RIGHT, WRONG
from lifted_lightning.pictures.style import shrink


class RetrievalGallery(BackgroundPicture):
    """Draws queries with their nearest neighbours in a row, framed green if of the query's class, else red.

    Two groups of queries are shown: random ones, and the worst (whose first neighbour of their own class has the
    highest rank; one a class).

    Args:
        neighbours: how many neighbours a query is shown with.
        rows: queries in each group.
        **of_all: ``seed``, ``every_n`` and ``timeout``, as every ``BackgroundPicture`` takes them.
    """

    name = "gallery"

    def __init__(self, neighbours: int = 8, rows: int = 3, **of_all: Any) -> None:
        super().__init__(**of_all)
        if min(neighbours, rows) < 1:
            raise UserError(f"gallery.neighbours {neighbours}, rows {rows}: give at least 1 of each")
        self.neighbours = neighbours
        self.rows = rows

    def inputs(self, trainer: Trainer, evaluation: Evaluation) -> Inputs | None:
        """Choose what is shown here; draw there."""
        ranking = evaluation.ranking
        answerable = ranking.answerable.cpu().numpy().nonzero()[0]
        if not len(answerable):
            return None
        order = np.random.default_rng(self.seed).permutation(answerable)
        labels, rank = evaluation.labels.cpu().numpy(), ranking.rank.cpu().numpy()[order]
        queries, nearest = ranking.queries.cpu().numpy()[order], ranking.nearest.cpu().numpy()[order]
        chosen = choose_queries(labels[queries], rank, self.rows)
        if not chosen:
            return None
        members = np.concatenate([members for _, members in chosen])
        shown, found = queries[members], nearest[members, : self.neighbours]
        cells = np.column_stack([shown, np.where(found < 0, shown[:, None], found)])
        rows, places = np.unique(evaluation.rows.cpu().numpy()[cells], return_inverse=True)
        data = data_of(trainer)
        return {
            "images": shrink(data.thumbnails(rows), 128)[places.reshape(cells.shape)],
            "names": np.array([[data.class_names[label] for label in row] for row in labels[cells]]),
            "status": np.where(found < 0, ABSENT, np.where(labels[cells[:, 1:]] == labels[shown, None], RIGHT, WRONG)),
            "headings": np.array([heading for heading, members in chosen for _ in members]),
        }


def choose_queries(own: IntArray, rank: IntArray, rows: int) -> list[tuple[str, IntArray]]:
    """Choose what a gallery shows.

    Args:
        own: (n,) classes of queries, which are in random order.
        rank: (n,) rank of the first neighbour of the query's own class.
        rows: queries in a group.

    Returns:
        Groups with at least one query, each a heading and positions; no query is in two groups.
    """
    random = np.arange(len(own))[:rows]
    left = np.setdiff1d(np.flatnonzero(rank > 1), random)
    left = left[np.argsort(-rank[left], kind="stable")]
    worst = left[np.sort(np.unique(own[left], return_index=True)[1])[:rows]]
    ranks = ", ".join(f"{r:,}" for r in rank[worst])
    groups = {
        "Random queries": random,
        f"Worst queries: the first of the query's class comes at rank {ranks}": worst,
    }
    return [(heading, members) for heading, members in groups.items() if len(members)]
