"""The retrieval gallery: queries with their nearest neighbours, drawn beside training."""

import numpy as np
import numpy.typing as npt
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.evaluation import evaluation_of, find_neighbours, gallery_rows
from lifted_lightning.callbacks.pictures import BackgroundPicture, Inputs, picture_title
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError
from lifted_lightning.metrics import EmbeddingSet
from lifted_lightning.pictures.gallery import ABSENT, RIGHT, WRONG
from lifted_lightning.pictures.style import shrink


class RetrievalGallery(BackgroundPicture):
    """Draws queries with their nearest neighbours in a row, framed green if of the query's class, else red.

    Three groups of queries are shown: random ones; the worst (whose first neighbour of their own class has
    the highest rank; one a class); and, for the pairs of classes that are most often each other's nearest,
    the query with the nearest such neighbour.

    Writes ``plots/gallery_<step>.png`` at validation and ``plots/gallery_test.png``, and logs them as
    ``plots/gallery_validation`` and ``plots/gallery_test``.

    Args:
        neighbours: how many neighbours a query is shown with.
        rows: queries in each group.
        candidates: how many wrongly answered queries, drawn at random, are searched for confused classes.
        seed: of the random choices, so that the same queries are shown each time.
        every_n: draw at every n-th validation. The test is always drawn.
        timeout: seconds that the end of training waits for the picture before giving it up.
    """

    name = "gallery"

    def __init__(
        self,
        neighbours: int = 8,
        rows: int = 3,
        candidates: int = 2000,
        seed: int = 0,
        every_n: int = 1,
        timeout: float = 300.0,
    ) -> None:
        super().__init__(every_n, timeout)
        if min(neighbours, rows, candidates) < 1:
            raise UserError(
                f"gallery.neighbours {neighbours}, rows {rows}, candidates {candidates}: give at least 1 of each"
            )
        self.neighbours = neighbours
        self.rows = rows
        self.candidates = candidates
        self.seed = seed

    def inputs(self, trainer: Trainer, stage: str, embedding_set: EmbeddingSet) -> Inputs | None:
        """Choose and search here; draw there."""
        evaluation = evaluation_of(trainer)
        gallery = gallery_rows(trainer, stage, embedding_set)
        labels = embedding_set.labels.cpu().numpy()
        answerable = evaluation.ranking.answerable.cpu().numpy().nonzero()[0]
        order = np.random.default_rng(self.seed).permutation(answerable)
        queries = evaluation.ranking.queries.cpu().numpy()[order]
        rank = evaluation.ranking.rank.cpu().numpy()[order]
        wrong = np.flatnonzero(rank > 1)[: self.candidates]
        found, distances = find_neighbours(embedding_set, queries[wrong], gallery, 1, evaluation.distance)
        confused = confused_pairs(labels[queries[wrong]], labels[found[:, 0]], distances[:, 0], self.rows)
        chosen = choose_queries(labels[queries], rank, wrong[confused], self.rows)
        if not chosen:
            return None
        headings = [heading for heading, members in chosen for _ in members]
        shown = queries[np.concatenate([members for _, members in chosen])]
        found, _ = find_neighbours(embedding_set, shown, gallery, self.neighbours, evaluation.distance)
        return {
            **_cells(trainer, embedding_set, shown, found),
            "headings": np.array(headings),
            "title": np.array(picture_title(trainer, stage)),
        }


def _cells(trainer: Trainer, embedding_set: EmbeddingSet, shown: IntArray, found: IntArray) -> Inputs:
    """Images, names and frames of queries (n,) with their neighbours (n, K), rows of the embedding set."""
    labels = embedding_set.labels.cpu().numpy()
    cells = np.column_stack([shown, np.where(found == ABSENT, shown[:, None], found)])
    rows, places = np.unique(embedding_set.indices.cpu().numpy()[cells], return_inverse=True)
    right = labels[cells[:, 1:]] == labels[shown, None]
    data = data_of(trainer)
    return {
        "images": shrink(data.thumbnails(rows), 128)[places.reshape(cells.shape)],
        "names": np.array([[data.class_names[label] for label in row] for row in labels[cells]]),
        "status": np.where(found == ABSENT, ABSENT, np.where(right, RIGHT, WRONG)),
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
