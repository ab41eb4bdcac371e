"""Retrieval metrics on validation at its own interval, and on test once, with clustering; and a baseline for both."""

from dataclasses import replace
from itertools import islice
from typing import Any, Literal, cast

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.utilities import rank_zero_warn

from lifted_lightning.callbacks.baseline import FROZEN, WHAT_TO_TRY, have_one_length, untrained_features
from lifted_lightning.callbacks.own_metrics import EvaluationMetric, own_values
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.errors import UserError
from lifted_lightning.metrics import clustering_metrics
from lifted_lightning.metrics.clustering import Start
from lifted_lightning.metrics.collection import Evaluation, RetrievalMetrics
from lifted_lightning.metrics.distances import Distance
from lifted_lightning.runs.settings import metric_names
from lifted_lightning.training.module import EmbeddingModule


class RetrievalEvaluation(Callback):
    """Evaluates the embeddings of all ranks, once: logs ``validation/recall@1``, ``test/map@r`` and the like.

    Then every other callback that has ``on_evaluation(trainer, module, evaluation)`` is given the ``Evaluation``, on
    every rank. One that has an attribute ``neighbours`` finds so many nearest images of each query in its ``ranking``.

    The same images are also ranked without training, once for each set of classes: ``baseline/recall@1`` and the like
    stand beside each validation's figures, ``baseline/test/recall@1`` beside the test's. An embedding that retrieves
    worse than that is told, with what to try.

    Args:
        ks: the K of Recall@K.
        distance: what neighbours are ranked by.
        clustering: by which method the test also clusters into as many clusters as classes, for NMI, AMI and F1;
            affinity propagation is the paper's on CUB and Cars, and meant for up to ten thousand images.
        clustering_start: where k-means starts; ``random`` points as in the paper's released code.
        baseline: whether the images are also evaluated without training: the pretrained trunk's features, or raw
            pixels, of unit length where the embeddings have one length.
        metrics: of one's own, one or several; what they give joins ours, that of the baseline too.

    Attributes:
        results: the latest metrics of each stage, ``validation`` and ``test``; ``baseline`` those of the latest one's
            images without training.
        baseline_name: what the baseline sees the images with.
        baseline_unit_length: whether its features have unit length.
        parts: of each stage whose evaluation had some of its images only: how many, and of how many.
    """

    def __init__(
        self,
        ks: tuple[int, ...] = (1, 2, 4, 8),
        distance: Distance = "euclidean",
        clustering: Literal["none", "k-means", "affinity propagation"] = "k-means",
        clustering_start: Start = "k-means++",
        baseline: bool = True,
        metrics: list[EvaluationMetric] | EvaluationMetric | None = None,
    ) -> None:
        if not ks or min(ks) < 1:
            raise UserError(f"evaluation.ks {list(ks)}: give one or more positive numbers")
        self.ks = ks
        self.distance: Distance = distance
        self.clustering = clustering
        self.clustering_start: Start = clustering_start
        self.baseline = baseline
        self.own = [metrics] if isinstance(metrics, EvaluationMetric) else metrics or []
        self.results: dict[str, dict[str, float]] = {}
        self.baseline_name: str | None = None
        self.baseline_unit_length = False
        self.parts: dict[str, list[int]] = {}
        self._baselines: dict[str, dict[str, float]] = {}  # by stage
        self._told_below = False
        self._loaded_step = 0
        self._metrics = RetrievalMetrics()

    @property
    def metric_names(self) -> list[str]:
        """Our metrics that validation logs, without the stage."""
        return metric_names(self.ks, clustering=False)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._baselines = {}  # of other data, maybe
        self._told_below = False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._loaded_step = checkpoint["global_step"]

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._metrics = self._new_metrics(trainer, pl_module, "test" if trainer.testing else "validation")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self._metrics.update(outputs["embeddings"], outputs["labels"], outputs["indices"])

    on_test_epoch_start = on_validation_epoch_start

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._publish(trainer, pl_module, self._evaluate(trainer, "validation"))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        evaluation = self._evaluate(trainer, "test")
        if self.clustering != "none":
            given = evaluation.embeddings, evaluation.labels, self.clustering, self.clustering_start, self.distance
            evaluation.values.update(clustering_metrics(*given))
        self._publish(trainer, pl_module, evaluation)

    def _new_metrics(self, trainer: Trainer, module: LightningModule, stage: str) -> RetrievalMetrics:
        query, gallery = data_of(trainer).query_gallery(stage)
        cameras = data_of(trainer).table.cameras
        askers = (*trainer.callbacks, *self.own)  # type: ignore[attr-defined]
        neighbours = max(getattr(one, "neighbours", 1) for one in askers)
        return RetrievalMetrics(self.ks, query, gallery, self.distance, neighbours, cameras).to(module.device)

    def _evaluate(self, trainer: Trainer, stage: str) -> Evaluation:
        """Rank all that the batches had, on every rank; the batches are let go."""
        values = self._metrics.compute()
        metrics, self._metrics = self._metrics, RetrievalMetrics()
        seen, there = len(metrics.items), len(data_of(trainer).rows_of(stage))
        self.parts.pop(stage, None)
        if seen < there:
            self.parts[stage] = [seen, there]
            rank_zero_warn(f"{stage}: its figures are of {seen} of {there} images only")
        return Evaluation(
            **vars(metrics.items),
            ranking=metrics.ranking,
            stage=stage,
            # After training, the steps of the checkpoint that is evaluated.
            step=trainer.global_step if trainer.state.fn == "fit" else self._loaded_step,
            values=values,
        )

    def _publish(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        stage = evaluation.stage
        self.results[stage] = self._with_own(trainer, evaluation)
        module.log_dict({f"{stage}/{name}": value for name, value in evaluation.values.items()})
        if self.baseline:
            if stage not in self._baselines:
                self._baselines[stage] = self._rank_baseline(trainer, cast(EmbeddingModule, module), evaluation)
            baseline = self.results["baseline"] = self._baselines[stage]
            place = "baseline" if stage == "validation" else f"baseline/{stage}"
            module.log_dict({f"{place}/{name}": value for name, value in baseline.items()})
            self._tell_below(evaluation)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_evaluation"):
                callback.on_evaluation(trainer, module, evaluation)

    def _with_own(self, trainer: Trainer, evaluation: Evaluation) -> dict[str, float]:
        """An evaluation's metrics, to which those of one's own are added: rank zero's, so that all have the same."""
        if self.own:
            evaluation.values.update(trainer.strategy.broadcast(own_values(self.own, evaluation)))
        return evaluation.values

    @torch.inference_mode()
    def _rank_baseline(self, trainer: Trainer, module: EmbeddingModule, evaluation: Evaluation) -> dict[str, float]:
        self.baseline_unit_length = have_one_length(module.network, evaluation.embeddings)
        self.baseline_name, features = untrained_features(module, self.baseline_unit_length)
        data, metrics = data_of(trainer), self._new_metrics(trainer, module, evaluation.stage)
        test = evaluation.stage == "test"
        batches = data.test_dataloader() if test else data.val_dataloader()
        seen = (trainer.num_test_batches if test else trainer.num_val_batches)[0]
        for batch in islice(batches, int(seen)):
            images, labels, rows = (batch[part].to(module.device) for part in ("images", "labels", "indices"))
            metrics.update(features(images).float(), labels, rows)
        values = metrics.compute()
        found = replace(evaluation, **vars(metrics.items), ranking=metrics.ranking, values=values)
        return self._with_own(trainer, found)

    def _tell_below(self, evaluation: Evaluation) -> None:
        """Say that training has lost what was there before it: what to try at first, later only that it still is so.

        A network that begins with random weights is below raw pixels at first, so of these the test alone tells.
        """
        stage, name, baseline = evaluation.stage, f"recall@{min(self.ks)}", str(self.baseline_name)
        own, without = evaluation.values[name], self.results["baseline"][name]
        if evaluation.step == 0 or (stage == "validation" and baseline != FROZEN):
            return
        line = f"{stage} at step {evaluation.step}: {name} {own:.3f} is {{}} the {without:.3f} of the {baseline}"
        told, self._told_below = self._told_below and stage == "validation", own < without
        if own < without and not told:
            length = "" if self.baseline_unit_length or baseline != FROZEN else "--model.network.normalize=true, "
            rank_zero_warn(f"{line.format('below')}; try, the likeliest first: {length}{WHAT_TO_TRY[baseline]}")
        elif own < without or told:
            rank_zero_warn(line.format("still below" if own < without else "no longer below"))
