"""Metrics of one's own: what they are given, what is made sure of what they give, and a rehearsal before training."""

import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from lifted_lightning.data.datamodule import RetrievalDataModule
from lifted_lightning.errors import UserError
from lifted_lightning.metrics.collection import Evaluation
from lifted_lightning.metrics.retrieval import rank_queries
from lifted_lightning.runs.settings import is_ours

REHEARSED = 256  # images at most
NAME = re.compile(r"\w[\w@.-]*")


class EvaluationMetric(ABC):
    """What a metric of one's own derives from: ``--evaluation.metrics+=my_metric.HubnessRate``.

    Each validation and each test asks it. What it gives stands beside our metrics: as ``validation/hubs@10`` and
    ``test/hubs@10`` in the loggers and ``metrics.csv``, in the table at the end, in ``result.json`` and a report's
    second table, and a checkpoint may be selected by it (``--best_checkpoint.monitor=validation/hubs@10``, and
    ``--best_checkpoint.mode=min`` where less is better).

    Attributes:
        neighbours: how many of each query's nearest images it needs in ``evaluation.ranking.nearest``. There may be
            more, which somebody else needs, and there are fewer where the gallery has fewer.
    """

    neighbours: int = 1

    @abstractmethod
    def compute(self, evaluation: Evaluation) -> Mapping[str, float]:
        """The metrics of one evaluation, by name. Nothing of the evaluation may be changed.

        It is called on every rank with the same evaluation, so it may call what works together over ranks, such as
        ``lifted_lightning.retrieval_metrics``; what it gives on rank zero counts. Tensors lie where the network does.
        Gradients are off: whoever trains something here, a probe say, does so on clones in a block of
        ``torch.inference_mode(False)``.

        Args:
            evaluation: embeddings, classes, how each query fared, our metrics (``evaluation.values``), and the rest.

        Returns:
            Numbers by name, of letters, digits and ``_ @ . -``; the same names each time. NaN where there is none.
        """


def own_values(metrics: Sequence[EvaluationMetric], evaluation: Evaluation) -> dict[str, float]:
    """What metrics of one's own give of an evaluation, as seen by this rank.

    Raises:
        UserError: for a name that is none or is taken, and for a value that is no number. What a metric raises goes on,
            with a note that names the metric.
    """
    found: dict[str, float] = {}
    for metric in metrics:
        of = f"evaluation.metrics {type(metric).__name__}"
        try:
            given: Any = metric.compute(evaluation)
        except Exception as error:
            error.add_note(of)  # said where the error is
            raise
        if not isinstance(given, Mapping):
            raise UserError(f"{of}: gave {type(given).__name__}; compute gives numbers by name, in a dict")
        for name, value in given.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise UserError(f"{of}: gave the name {name!r}; make it of letters, digits and _ @ . -")
            if is_ours(name) or name in found:
                whose = "a metric of ours has" if is_ours(name) else "another of one's own has, or the same given twice"
                raise UserError(f"{of}: gave {name}, a name that {whose}; choose another")
            plain = value.item() if isinstance(value, Tensor | np.generic | np.ndarray) and not value.ndim else value
            if isinstance(plain, bool) or not isinstance(plain, int | float):
                raise UserError(f"{of}: {name} is {type(value).__name__}; give a number, as float(x) makes it")
            found[name] = float(plain)
            if not math.isfinite(plain):
                rank_zero_warn(f"{of}: {name} is {plain} in the {evaluation.stage}, and will be missing there")
    return found


@torch.inference_mode()  # as evaluations are
def rehearse(metrics: Sequence[EvaluationMetric], data: RetrievalDataModule, embedding_size: int) -> list[str]:
    """Ask metrics of one's own before training, of random embeddings of some images, so that what is wrong is said now.

    Args:
        metrics: those of one's own.
        data: whose classes are taken, of the validation if there is any.
        embedding_size: D.

    Returns:
        The names of what they give.
    """
    if not metrics:
        return []
    rows = data.validation_rows if len(data.validation_rows) else data.table.test
    rows = np.sort(rows[np.argsort(data.table.labels[rows], kind="stable")][:REHEARSED])
    labels = torch.from_numpy(data.table.labels[rows])
    embeddings = torch.randn(len(rows), embedding_size, generator=torch.Generator().manual_seed(0))
    ranking = rank_queries(embeddings, labels, neighbours=max(metric.neighbours for metric in metrics))
    made_up = Evaluation(torch.from_numpy(rows), embeddings, labels, ranking, "validation", 0, ranking.metrics())
    with warnings.catch_warnings(action="ignore"):  # that nothing can be said of these
        return list(own_values(metrics, made_up))
