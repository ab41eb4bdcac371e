"""Retrieval metrics on validation at its own interval, and on test once, with clustering and a baseline."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.data.table import IntArray
from lifted_lightning.errors import UserError
from lifted_lightning.metrics import EmbeddingSet, RetrievalMetrics, RetrievalResult, clustering_metrics, nearest
from lifted_lightning.metrics.points import Distance
from lifted_lightning.pictures.gallery import ABSENT
from lifted_lightning.runs.settings import metric_names
from lifted_lightning.training.module import Batch, EmbeddingModule


@runtime_checkable
class EmbeddingSetConsumer(Protocol):
    """A callback that wants the embeddings of an evaluation, for a picture say. Called on every rank."""

    def on_embedding_set(
        self, trainer: Trainer, module: LightningModule, stage: str, embedding_set: EmbeddingSet
    ) -> None:
        """Take in the embeddings of a stage, ``validation`` or ``test``."""


class RetrievalEvaluation(Callback):
    """Evaluates the embeddings of all ranks, once: logs ``validation/recall@1``, ``test/map@r`` and the like.

    Args:
        ks: the K of Recall@K.
        distance: what neighbours are ranked by.
        clustering: by which method the test also clusters into as many clusters as classes, for NMI, AMI and F1;
            affinity propagation is the paper's on CUB and Cars, and meant for up to ten thousand images.
        clustering_start: where k-means starts; ``random`` points as in the paper's released code.
        baseline: whether the test also evaluates the images without training: the pretrained trunk's features,
            or raw pixels.
    """

    def __init__(
        self,
        ks: tuple[int, ...] = (1, 2, 4, 8),
        distance: Literal["euclidean", "cosine"] = "euclidean",
        clustering: Literal["none", "k-means", "affinity propagation"] = "k-means",
        clustering_start: Literal["k-means++", "random"] = "k-means++",
        baseline: bool = True,
    ) -> None:
        if not ks or min(ks) < 1:
            raise UserError(f"evaluation.ks {list(ks)}: give one or more positive numbers")
        self.ks = ks
        self.distance = distance
        self.clustering = clustering
        self.clustering_start = clustering_start
        self.baseline = baseline
        self.results: dict[str, dict[str, float]] = {}
        self.baseline_name: str | None = None
        self._loaded_step = 0
        self._metric: RetrievalMetrics | None = None

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded_step = checkpoint["global_step"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metric = self._new_metric(trainer, pl_module, "validation")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metric = self._new_metric(trainer, pl_module, "test")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self._update(outputs)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self._update(outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish(trainer, pl_module, "validation")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    @property
    def metric_names(self) -> list[str]:
        """What validation logs, without the stage."""
        return metric_names(self.ks, clustering=False)

    @property
    def ranking(self) -> RetrievalResult:
        """How each query of the latest evaluation fared; its queries are rows of the embedding set."""
        assert self._metric is not None
        assert self._metric.result is not None
        return self._metric.result

    def step(self, trainer: Trainer) -> int:
        """How many steps the network that is evaluated has trained: after training, those of its checkpoint."""
        return trainer.global_step if trainer.state.fn == "fit" else self._loaded_step

    def _new_metric(self, trainer: Trainer, module: LightningModule, stage: str) -> RetrievalMetrics:
        query, gallery = data_of(trainer).query_gallery(stage)
        metric = RetrievalMetrics(
            ks=self.ks, distance=self.distance, query=as_tensor(query), gallery=as_tensor(gallery)
        )
        return metric.to(module.device)

    def _update(self, outputs: Any) -> None:
        assert self._metric is not None
        self._metric.update(outputs["embeddings"], outputs["labels"], outputs["indices"])

    def _finish(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        assert self._metric is not None
        values = self._metric.compute()
        embedding_set = self._metric.embedding_set
        assert embedding_set is not None
        if stage == "test" and self.clustering != "none":  # a collective: rank zero clusters, and tells the others
            values |= clustering_metrics(
                embedding_set.embeddings,
                embedding_set.labels,
                method=self.clustering,
                start=self.clustering_start,
                distance=self.distance,
            )
        self.results[stage] = values
        module.log_dict({f"{stage}/{name}": value for name, value in values.items()})
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EmbeddingSetConsumer):
                callback.on_embedding_set(trainer, module, stage, embedding_set)
        if stage == "test" and self.baseline:
            self._evaluate_baseline(trainer, module)

    def _evaluate_baseline(self, trainer: Trainer, module: LightningModule) -> None:
        metric = self._new_metric(trainer, module, "test")
        self.baseline_name, indices, embeddings, labels = embed_baseline(
            cast(EmbeddingModule, module), data_of(trainer).test_dataloader()
        )
        metric.update(embeddings.to(module.device), labels.to(module.device), indices.to(module.device))
        self.results["baseline"] = metric.compute()


def as_tensor(rows: IntArray | None) -> Tensor | None:
    return None if rows is None else torch.from_numpy(rows)


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


PIXEL_SIDE = 32  # raw pixels are compared at no more than this side, which keeps them thousands of numbers


@torch.inference_mode()
def embed_baseline(module: EmbeddingModule, batches: Iterable[Batch]) -> tuple[str, Tensor, Tensor, Tensor]:
    """Features of this rank's images without training.

    Returns:
        What sees them (the untrained trunk, or raw pixels), indices (n,), features (n, F) float32, labels (n,).
    """
    name, features = _features(module)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in batches:
        images = batch["images"].to(module.device)
        rows.append((batch["indices"], features(images).float().cpu(), batch["labels"]))
    indices, embeddings, labels = zip(*rows, strict=True)
    return name, torch.cat(indices), torch.cat(embeddings), torch.cat(labels)


def _features(module: EmbeddingModule) -> tuple[str, Callable[[Tensor], Tensor]]:
    make = getattr(module.network, "initial_trunk", None)
    trunk = make() if make else None
    if trunk is None:
        return "raw pixels", _raw_pixels
    trunk = trunk.to(module.device, module.augment.mean.dtype)
    return "untrained trunk", lambda images: trunk(module.augment(images, None))


def _raw_pixels(images: Tensor) -> Tensor:
    side = min(*images.shape[2:], PIXEL_SIDE)
    return functional.adaptive_avg_pool2d(images.float() / 255, side).flatten(1)
