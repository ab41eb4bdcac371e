"""What the pictures and tables of an evaluation draw on: its ranking, its data, and neighbour search."""

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Trainer

from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.metrics import EmbeddingSet, nearest
from lifted_lightning.metrics.points import Distance
from lifted_lightning.plots import ABSENT

IntArray = npt.NDArray[np.int64]


def evaluation_of(trainer: Trainer) -> RetrievalEvaluation:
    """The callback that evaluated the embeddings."""
    return next(c for c in trainer.callbacks if isinstance(c, RetrievalEvaluation))  # type: ignore[attr-defined]


def gallery_rows(trainer: Trainer, stage: str, embedding_set: EmbeddingSet) -> IntArray:
    """Rows of the embedding set that are searched: all, where the data set keeps no gallery apart."""
    _, gallery = data_of(trainer).query_gallery(stage)
    indices = embedding_set.indices.cpu().numpy()
    return np.arange(len(indices)) if gallery is None else np.flatnonzero(np.isin(indices, gallery))


def find_neighbours(
    embedding_set: EmbeddingSet, queries: IntArray, gallery: IntArray, k: int, distance: Distance
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """The k nearest neighbours in the gallery of each query, itself left out.

    Args:
        embedding_set: N items.
        queries: (n,) rows of it.
        gallery: (g,) rows of it, ascending.
        k: neighbours to find.
        distance: what they are ranked by.

    Returns:
        (n, k) rows of the embedding set, nearest first, ABSENT where the gallery holds fewer; (n, k) or
        fewer distances.
    """
    embeddings = embedding_set.embeddings
    itself = np.where(np.isin(queries, gallery), np.searchsorted(gallery, queries), -1)
    distances, columns = nearest(
        embeddings[torch.from_numpy(queries)],
        embeddings[torch.from_numpy(gallery)],
        k,
        exclude=torch.from_numpy(itself) if (itself >= 0).any() else None,
        distance=distance,
    )
    found = np.full((len(queries), k), ABSENT, dtype=np.int64)
    found[:, : columns.shape[1]] = gallery[columns.cpu().numpy()]
    return found, distances.cpu().numpy()
