"""One training run in miniature, of one rank among several, and what it leaves behind to compare."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from lifted_lightning.callbacks.evaluation import RetrievalEvaluation
from lifted_lightning.callbacks.own_metrics import EvaluationMetric
from lifted_lightning.data.augment import CropMirror
from lifted_lightning.data.batches import GlobalBatchSampler, PositivePairs
from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.data.table import IntArray
from lifted_lightning.distributed import rank
from lifted_lightning.losses import ContrastiveLoss, CrossBatchMemory, LiftedStructureLoss, TripletLoss
from lifted_lightning.metrics import retrieval_metrics
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.training.batchnorm import SyncBatchNormLayers
from lifted_lightning.training.module import EmbeddingModule
from tests.helpers.tiny import Blobs, TinyNetwork

SIZE = 8  # of the embeddings


def proxy_anchor() -> torch.nn.Module:
    from pytorch_metric_learning.losses import ProxyAnchorLoss

    return ProxyAnchorLoss(num_classes=20, embedding_size=SIZE)


LOSSES: dict[str, Callable[[], torch.nn.Module]] = {
    "lifted": LiftedStructureLoss,
    "triplet": TripletLoss,
    "contrastive": ContrastiveLoss,
    "proxy anchor": proxy_anchor,
    "memory": lambda: CrossBatchMemory(ContrastiveLoss(), size=40, start=2, embedding_size=SIZE),
}


@dataclass(frozen=True)
class Case:
    """What is trained. ``batches`` gives labels of the rows of each batch, instead of the usual sampler."""

    loss: str = "lifted"
    steps: int = 12  # more than an epoch
    precision: str = "64-true"
    micro_batch: int | None = None
    gather: bool = True
    batchnorm: bool = False
    dropout: float = 0.0
    clip: float | None = None
    accumulate: int = 1
    freeze: int = 0
    compiled: bool = False
    batch_size: int = 24
    validate: bool = False
    two_views: bool = False
    batches: tuple[tuple[int, ...], ...] | None = None


@dataclass
class Outcome:
    """What a rank saw: gradients as one vector a step, the loss of each step, and the weights at the end."""

    gradients: list[Tensor] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    positives: list[float] = field(default_factory=list)
    weights: Tensor = field(default_factory=lambda: torch.empty(0))
    buffers: dict[str, Tensor] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


class Watch(Callback):
    """Notes the gradient that the optimiser has used, and what the loss saw."""

    def __init__(self) -> None:
        self.outcome = Outcome()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, *args: Any) -> None:
        gradients = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.outcome.gradients.append(torch.cat(gradients).clone())
        labels = outputs["labels"]
        same = (labels[:, None] == labels).sum(1) - 1
        self.outcome.positives.append(float(same.double().mean()))
        self.outcome.losses.append(float(outputs["loss"]))


class FixedBatches(GlobalBatchSampler):
    """Batches whose rows have given classes; a class's images in turn."""

    def __init__(self, batches: tuple[tuple[int, ...], ...]) -> None:
        self.batches = batches

    def batches_in_a_pass(self) -> int:
        return len(self.batches)

    def draw(self, random: np.random.Generator, number: int) -> IntArray:
        seen: dict[int, int] = {}
        rows = []
        for label in self.batches[number % len(self.batches)]:
            rows.append(int(np.flatnonzero(self.labels == label)[seen.get(label, 0)]))
            seen[label] = seen.get(label, 0) + 1
        return np.array(rows)


def blobs(case: Case, cache: Path) -> RetrievalDataModule:
    """Blobs, in the usual batches or in given ones."""
    given = case.batches
    return RetrievalDataModule(
        Blobs(), FixedBatches(given) if given else PositivePairs(samples_per_class=2),
        batch_size=len(given[0]) if given else case.batch_size, batches_per_epoch=None if given else 10, size=16,
        channels=1, validation_share=0.2 if case.validate else 0.0, cache_dir=str(cache),
        eval_batch_size=7, seed=1,
    )  # fmt: skip


class TwoViews(EmbeddingModule):
    """Takes the loss of two random views of each image."""

    def compute_loss(self, batch: dict[str, Tensor], embeddings: Tensor, labels: Tensor) -> Tensor:
        second = self.embed_view(batch)
        assert second.shape == embeddings.shape
        assert second.dtype == embeddings.dtype
        assert not torch.equal(second, embeddings)
        return self.loss(torch.cat([embeddings, second]), torch.cat([labels, labels]))


def build(case: Case) -> EmbeddingModule:
    """The module of a case, with weights that depend on nothing else."""
    torch.manual_seed(5)
    return (TwoViews if case.two_views else EmbeddingModule)(
        TinyNetwork(SIZE, case.batchnorm, case.dropout), LOSSES[case.loss](), CropMirror(size=12),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-3), head_lr_factor=2.0, gather=case.gather,
        micro_batch=case.micro_batch, compile=case.compiled, seed=3, freeze_trunk_steps=case.freeze,
    )  # fmt: skip


class AsksRanks(EvaluationMetric):
    """A metric of one's own that differs between ranks, and one that all ranks work out together."""

    def compute(self, evaluation: Evaluation) -> dict[str, float]:
        again = retrieval_metrics(evaluation.embeddings, evaluation.labels)["recall@1"]
        return {"rank": rank(), "again": again}


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The difference of two vectors, as a share of the second's length."""
    return float((a.double() - b.double()).norm() / b.double().norm())


def train(cases: list[Case], world_size: int, cache: Path) -> list[Outcome]:
    """Train each case in turn, as one of ``world_size`` ranks."""
    torch.set_num_threads(1)
    return [_train(case, world_size, cache) for case in cases]


def _train(case: Case, world_size: int, cache: Path) -> Outcome:
    evaluation = RetrievalEvaluation(clustering="none", baseline=False, metrics=[AsksRanks()])
    watch, module = Watch(), build(case)
    trainer = Trainer(
        accelerator="cpu", devices=world_size, strategy="ddp" if world_size > 1 else "auto",
        max_steps=case.steps, precision=case.precision, gradient_clip_val=case.clip,
        accumulate_grad_batches=case.accumulate, callbacks=[watch, evaluation],
        plugins=[SyncBatchNormLayers()] if case.batchnorm else None,
        limit_val_batches=None if case.validate else 0,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=blobs(case, cache))
    outcome = watch.outcome
    outcome.weights = torch.cat([p.detach().flatten() for p in module.parameters()])
    outcome.buffers = {name: b.clone() for name, b in module.network.named_buffers()}
    outcome.metrics = evaluation.results.get("validation", {})
    return outcome
