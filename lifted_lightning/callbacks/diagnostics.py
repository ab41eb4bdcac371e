"""What is in a training batch and what the network makes of it, beside the loss."""

from collections.abc import Mapping
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from lifted_lightning.losses.pairs import PairBlocks


class BatchDiagnostics(Callback):
    """Logs, at each logging step, figures of the global batch just trained on.

    - ``batch/classes``, ``batch/positives_per_anchor``: what the sampler gave.
    - ``batch/neighbour_share``: the share of the batch that came as difficult neighbours.
    - ``batch/active_share``: the share of pairs or triplets that the loss still acts on, from losses that
      tell (whatever else their method ``diagnostics`` returns is logged too).
    - ``batch/norm_mean``, ``batch/positive_distance``, ``batch/negative_distance``, ``batch/effective_rank``:
      see :func:`batch_figures`.

    Every rank takes them of the same gathered batch, so nothing is communicated.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or trainer.global_step % every or not isinstance(outputs, Mapping):
            return
        embeddings, labels = outputs["embeddings"], outputs["labels"]
        figures = batch_figures(embeddings, labels)
        share = getattr(trainer.datamodule, "neighbour_share", None)  # type: ignore[attr-defined]
        if share is not None:
            figures["neighbour_share"] = torch.tensor(share(trainer.current_epoch, batch_idx))
        of_loss = getattr(pl_module.loss, "diagnostics", None)
        if of_loss is not None:
            figures |= of_loss(embeddings, labels)
        named = {f"batch/{name}": figure.float() for name, figure in figures.items()}
        pl_module.log_dict(named, on_step=True, on_epoch=False, batch_size=len(labels))


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
    pairs = PairBlocks(embeddings, labels)
    everything = within = pairs.x.new_zeros(())
    for block in pairs.blocks:
        distances = pairs.distances(block.rows)
        everything = everything + distances.sum()
        within = within + distances[:, block.near].where(pairs.same(block), 0).sum()
    return {
        "classes": torch.tensor(len(labels.unique())),
        "positives_per_anchor": pairs.positives.mean(),
        "norm_mean": torch.linalg.vector_norm(embeddings, dim=1).mean(),
        "positive_distance": within / pairs.positives.sum(),
        "negative_distance": (everything - within) / pairs.negatives.sum(),
        "effective_rank": effective_rank(embeddings),
    }


def effective_rank(embeddings: Tensor) -> Tensor:
    """How many directions the embeddings (B, D) fill: e to the entropy of their singular values' shares.

    From 1, all in one direction (as when they have collapsed to a point), to min(B, D), all alike. They are
    not centred, for what is left of a collapsed batch then would be noise in all directions.
    (Roy and Vetterli, The effective rank, EUSIPCO 2007.)
    """
    wide = embeddings if embeddings.device.type == "mps" else embeddings.double()
    small = wide.T @ wide if len(wide) > wide.shape[1] else wide @ wide.T
    values = torch.linalg.eigvalsh(small).clamp_min(0).sqrt()
    return torch.special.entr(values / values.sum().clamp_min(1e-30)).sum().exp()
