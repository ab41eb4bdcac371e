"""What is in a training batch, what the network makes of it, and the learning rates, beside the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lifted_lightning.callbacks.collapse import CollapseWatch

# Rows whose distances to the whole batch are held at once.
_ROWS = 1024


class BatchDiagnostics(Callback):
    """Logs, at each logging step, figures of the global batch just trained on.

    - ``batch/classes``, ``batch/positives_per_anchor``: what the sampler gave.
    - ``batch/neighbour_share``: the share of the batch that came as difficult neighbours, from ``PositivePairs``
      (whatever else a sampler's method ``diagnostics`` returns is logged too).
    - ``batch/active_share``: the share of pairs or triplets that the loss still acts on, from losses that
      tell (whatever else their method ``diagnostics`` returns is logged too).
    - ``batch/norm_mean``, ``batch/positive_distance``, ``batch/negative_distance``, ``batch/effective_rank``:
      see :func:`batch_figures`.
    - ``lr/trunk``, ``lr/head``, ``lr/loss``: the learning rate of each of the optimiser's groups in that step (a group
      without a name is known by its number; of a trunk's layers it is the last one's, of which the others' are fixed
      shares); left to Lightning's ``LearningRateMonitor`` where there is one.

    Every rank takes them of the same gathered batch, so nothing is communicated. That an embedding has collapsed is
    told once (see ``CollapseWatch``).
    """

    def __init__(self) -> None:
        self._collapse = CollapseWatch()

    def state_dict(self) -> dict[str, Any]:
        return self._collapse.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._collapse.state = state_dict

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Log the rates here, for a schedule has changed them when the batch ends."""
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or (trainer.global_step + 1) % every:
            return
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, LearningRateMonitor) for callback in callbacks):
            groups = {group.get("part", group.get("name", i)): group for i, group in enumerate(optimizer.param_groups)}
            rates = {f"lr/{name}": torch.tensor(float(g["lr"]), dtype=torch.float64) for name, g in groups.items()}
            pl_module.log_dict(rates, on_step=True, on_epoch=False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or trainer.global_step % every or not isinstance(outputs, Mapping):
            return
        embeddings, labels = outputs["embeddings"], outputs["labels"]
        figures = batch_figures(embeddings, labels)
        sampler = getattr(trainer.datamodule, "sampler", None)  # type: ignore[attr-defined]
        if sampler is not None:
            told = sampler.diagnostics(sampler.number(trainer.current_epoch, batch_idx))
            figures |= {name: torch.tensor(figure) for name, figure in told.items()}
        of_loss = getattr(pl_module.loss, "diagnostics", None)
        if of_loss is not None:
            figures |= of_loss(embeddings, labels)
        named = {f"batch/{name}": figure.float() for name, figure in figures.items()}
        pl_module.log_dict(named, on_step=True, on_epoch=False, batch_size=len(labels))
        of: Any = getattr(pl_module, "network", pl_module), pl_module.loss, (embeddings, labels)
        if line := self._collapse.look(trainer.global_step, figures, *of):
            rank_zero_warn(line)


@torch.no_grad()
def batch_figures(embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Figures of one batch.

    Args:
        embeddings: (B, D) float.
        labels: (B,) int64.

    Returns:
        Scalars: ``classes``; ``positives_per_anchor``, mean number of others of an image's class;
        ``norm_mean``, mean Euclidean norm; ``positive_distance`` and ``negative_distance``, mean Euclidean
        distance of the pairs within a class and across classes, NaN without any; ``effective_rank``.
    """
    wide = _wide(embeddings)
    sums = wide.new_zeros(2, 2)  # across classes and within one: the distances and how many there are
    for rows in torch.arange(len(labels), device=labels.device).split(_ROWS):
        distances = torch.cdist(wide[rows], wide)
        same = labels[rows, None] == labels
        others = same.sum() - len(rows)  # an image is no pair with itself, and its distance is 0
        sums[0] += torch.stack([distances.where(~same, 0).sum(), (~same).sum()])
        sums[1] += torch.stack([distances.where(same, 0).sum(), others])
    negative, positive = sums[:, 0] / sums[:, 1]
    return {
        "classes": torch.tensor(len(labels.unique())),
        "positives_per_anchor": sums[1, 1] / len(labels),
        "norm_mean": torch.linalg.vector_norm(embeddings, dim=1).mean(),
        "positive_distance": positive,
        "negative_distance": negative,
        "effective_rank": effective_rank(embeddings),
    }


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many directions the embeddings (B, D) fill: e to the entropy of their singular values' shares.

    From 1, all in one direction (as when they have collapsed to a point), to min(B, D), all alike. They are
    not centred, for what is left of a collapsed batch then would be noise in all directions. NaN where an
    embedding is not finite.
    (Roy and Vetterli, The effective rank, EUSIPCO 2007.)
    """
    wide = _wide(embeddings)
    small = wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T
    if not small.isfinite().all():  # which LAPACK refuses, and a loss may pass over
        return small.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(small).clamp_min(0).sqrt()
    return torch.special.entr(values / values.sum().clamp_min(1e-30)).sum().exp()


def _wide(embeddings: Tensor) -> Tensor:
    """In float64, where the device has it."""
    return embeddings.float() if embeddings.device.type == "mps" else embeddings.double()
