"""Which classes of the test retrieval fails on and what it takes them for, and its Recall@K for many K."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.files import atomic, csv_text
from lifted_lightning.metrics.collection import Evaluation

COLUMNS = ("class", "queries", "recall@1", "most_confused_with", "times")
RECALL_CURVE = "plots/recall_curve_test"

Row = list[Any]


class TablesOfTest(Callback):
    """Tables of the test: Recall@1 of each class, worst first, and Recall@K for K = 1, 2, 4, …

    The first is written to ``per_class.csv`` in the run's folder, and given to loggers that have ``log_table``, when
    the test is over, as ``plots/per_class_test``. A class's row has the number of its queries (those with another
    image of the class in the gallery), the share of them whose nearest neighbour is of the class, and the class that
    the nearest neighbours of the others most often are, with how often. W&B gets the second, as a line and a table,
    as ``plots/recall_curve_test``.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._curve: list[Row] = []

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Make the tables of a test, and write the first."""
        if not trainer.is_global_zero or evaluation.stage != "test":
            return
        self._rows = per_class_rows(evaluation, data_of(trainer).class_names)
        ks = [1 << power for power in range(11) if 1 << power < len(evaluation)]
        self._curve = [[k, evaluation.ranking.metrics([k])[f"recall@{k}"]] for k in ks]
        with atomic(Path(trainer.default_root_dir) / "per_class.csv", "w") as file:
            csv.writer(file).writerows([COLUMNS, *([*map(csv_text, row)] for row in self._rows)])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers if self._rows else ():
            if hasattr(logger, "log_table"):
                logger.log_table(
                    "plots/per_class_test", columns=list(COLUMNS), data=self._rows, step=trainer.global_step
                )
            if isinstance(logger, WandbLogger):
                import wandb

                table = wandb.Table(columns=["K", "recall"], data=self._curve)
                chart: Any = wandb.plot.line(table, "K", "recall", title="Recall@K, test")
                logger.log_metrics({RECALL_CURVE: chart}, trainer.global_step)


def per_class_rows(evaluation: Evaluation, class_names: Sequence[str]) -> list[Row]:
    """A row of ``COLUMNS`` for each class: the lowest recall first, then the class with more queries."""
    ranking = evaluation.ranking
    wrong = ranking.rank > 1
    own = ranking.labels[wrong].cpu().numpy()
    nearest = evaluation.labels[ranking.nearest[wrong, :1].flatten()].cpu().numpy()
    rows: list[Row] = []
    for label, recall, count in zip(*(column.tolist() for column in ranking.per_class_recall()), strict=True):
        # With ties the nearest may be of the query's own class although the answer counts as wrong.
        others, times = np.unique(nearest[(own == label) & (nearest != label)], return_counts=True)
        confused = class_names[others[times.argmax()]] if len(others) else ""
        rows.append([class_names[label], count, recall, confused, int(times.max(initial=0))])
    return sorted(rows, key=lambda row: (row[2], -row[1]))
