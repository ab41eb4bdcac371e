"""Retrieval metrics on validation at its own interval, and on test once, with clustering and a baseline."""

from typing import Any, Literal, Protocol, cast, runtime_checkable

from pytorch_lightning import Callback, LightningModule, Trainer

from lifted_lightning.callbacks.baseline import embed_baseline, untrained_features
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError
from lifted_lightning.metrics import clustering_metrics
from lifted_lightning.metrics.clustering import Start
from lifted_lightning.metrics.collection import Evaluation, RetrievalMetrics
from lifted_lightning.metrics.distances import Distance
from lifted_lightning.runs.settings import metric_names
from lifted_lightning.training.module import EmbeddingModule


@runtime_checkable
class EvaluationConsumer(Protocol):
    """A callback that makes something of each evaluation: a picture, a table, a metric of one's own.

    One that has an attribute ``neighbours`` finds so many nearest images of each query in ``evaluation.ranking``.
    """

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Take in an evaluation of the validation or the test. Called on every rank; draw on rank zero only."""


class RetrievalEvaluation(Callback):
    """Evaluates the embeddings of all ranks, once: logs ``validation/recall@1``, ``test/map@r`` and the like.

    Then every other callback that has ``on_evaluation`` is given the ``Evaluation``.

    Args:
        ks: the K of Recall@K.
        distance: what neighbours are ranked by.
        clustering: by which method the test also clusters into as many clusters as classes, for NMI, AMI and F1;
            affinity propagation is the paper's on CUB and Cars, and meant for up to ten thousand images.
        clustering_start: where k-means starts; ``random`` points as in the paper's released code.
        baseline: whether the test also evaluates the images without training: the pretrained trunk's features,
            or raw pixels.

    Attributes:
        results: the latest metrics of each stage, ``validation``, ``test`` and ``baseline``.
        baseline_name: what the baseline sees the images with.
    """

    def __init__(
        self,
        ks: tuple[int, ...] = (1, 2, 4, 8),
        distance: Distance = "euclidean",
        clustering: Literal["none", "k-means", "affinity propagation"] = "k-means",
        clustering_start: Start = "k-means++",
        baseline: bool = True,
    ) -> None:
        if not ks or min(ks) < 1:
            raise UserError(f"evaluation.ks {list(ks)}: give one or more positive numbers")
        self.ks = ks
        self.distance: Distance = distance
        self.clustering = clustering
        self.clustering_start: Start = clustering_start
        self.baseline = baseline
        self.results: dict[str, dict[str, float]] = {}
        self.baseline_name: str | None = None
        self._loaded_step = 0
        self._metrics = RetrievalMetrics()

    @property
    def metric_names(self) -> list[str]:
        """What validation logs, without the stage."""
        return metric_names(self.ks, clustering=False)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded_step = checkpoint["global_step"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = self._new_metrics(trainer, pl_module, "validation")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self._metrics.update(outputs["embeddings"], outputs["labels"], outputs["indices"])

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = self._new_metrics(trainer, pl_module, "test")

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._publish(trainer, pl_module, self._evaluate(trainer, "validation"))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = self._evaluate(trainer, "test")
        if self.clustering != "none":
            evaluation.values.update(
                clustering_metrics(
                    evaluation.embeddings,
                    evaluation.labels,
                    method=self.clustering,
                    start=self.clustering_start,
                    distance=self.distance,
                )
            )
        self._publish(trainer, pl_module, evaluation)
        if self.baseline:
            self.baseline_name, features = untrained_features(cast(EmbeddingModule, pl_module))
            metrics = self._new_metrics(trainer, pl_module, "test")
            for batch in embed_baseline(features, data_of(trainer).test_dataloader(), pl_module.device):
                metrics.update(*batch)
            self.results["baseline"] = metrics.compute()

    def _new_metrics(self, trainer: Trainer, module: LightningModule, stage: str) -> RetrievalMetrics:
        query, gallery = data_of(trainer).query_gallery(stage)
        neighbours = max(getattr(callback, "neighbours", 1) for callback in callbacks_of(trainer))
        return RetrievalMetrics(self.ks, query, gallery, self.distance, neighbours).to(module.device)

    def _evaluate(self, trainer: Trainer, stage: str) -> Evaluation:
        """Rank all that the batches had, on every rank; the batches are let go."""
        values = self._metrics.compute()
        metrics, self._metrics = self._metrics, RetrievalMetrics()
        return Evaluation(
            **vars(metrics.items),
            ranking=metrics.ranking,
            stage=stage,
            # After training, the steps of the checkpoint that is evaluated.
            step=trainer.global_step if trainer.state.fn == "fit" else self._loaded_step,
            distance=self.distance,
            values=values,
        )

    def _publish(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        self.results[evaluation.stage] = evaluation.values
        module.log_dict({f"{evaluation.stage}/{name}": value for name, value in evaluation.values.items()})
        for callback in callbacks_of(trainer):
            if isinstance(callback, EvaluationConsumer):
                callback.on_evaluation(trainer, module, evaluation)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks of a trainer."""
    return trainer.callbacks  # type: ignore[attr-defined]
