"""The retrieval gallery: queries with their nearest neighbours, drawn beside training."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs, picture_title
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.pictures.gallery import ABSENT, RIGHT, WRONG
from lifted_lightning.pictures.style import shrink


class RetrievalGallery(BackgroundPicture):
    """Draws queries with their nearest neighbours in a row, framed green if of the query's class, else red.

    Three groups of queries are shown: random ones; the worst (whose first neighbour of their own class has
    the highest rank; one a class); and, for the pairs of classes that are most often each other's nearest,
    the query with the nearest such neighbour.

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
        wrong = np.flatnonzero(rank > 1)
        distances = ranking.distances[:, 0].cpu().numpy()[order[wrong]]
        confused = confused_pairs(labels[queries[wrong]], labels[nearest[wrong, 0]], distances, self.rows)
        chosen = choose_queries(labels[queries], rank, wrong[confused], self.rows)
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
            "title": np.array(picture_title(trainer, evaluation)),
        }


def confused_pairs(own: IntArray, nearest: IntArray, distances: npt.NDArray[np.floating], count: int) -> IntArray:
    """Find the pairs of classes that are most often nearest to one another, either way round.

    Args:
        own: (n,) classes of queries.
        nearest: (n,) classes of their nearest neighbours.
        distances: (n,) to those.
        count: of pairs.

    Returns:
        (m,) for each pair the position of the query with the nearest such neighbour, the most frequent pair
        first; m is ``count`` or less.
    """
    wrong = np.flatnonzero(own != nearest)
    wrong = wrong[np.argsort(distances[wrong], kind="stable")]
    pairs = np.sort(np.column_stack([own[wrong], nearest[wrong]]), axis=1)
    _, first, times = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    return wrong[first[np.argsort(-times, kind="stable")[:count]]]


def choose_queries(own: IntArray, rank: IntArray, confused: IntArray, rows: int) -> list[tuple[str, IntArray]]:
    """Choose what a gallery shows.

    Args:
        own: (n,) classes of queries, which are in random order.
        rank: (n,) rank of the first neighbour of the query's own class.
        confused: positions of the queries that show confused classes.
        rows: queries in a group.

    Returns:
        Groups with at least one query, each a heading and positions; no query is in two groups.
    """
    random = np.setdiff1d(np.arange(len(own)), confused)[:rows]
    left = np.setdiff1d(np.flatnonzero(rank > 1), np.concatenate([random, confused]))
    left = left[np.argsort(-rank[left], kind="stable")]
    worst = left[np.sort(np.unique(own[left], return_index=True)[1])[:rows]]
    ranks = ", ".join(f"{r:,}" for r in rank[worst])
    groups = {
        "Random queries": random,
        f"Worst queries: the first of the query's class comes at rank {ranks}": worst,
        "Most confused pairs of classes": confused,
    }
    return [(heading, members) for heading, members in groups.items() if len(members)]
