"""The per-class table of the test: which classes retrieval fails on, and what it takes them for."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lifted_lightning.callbacks.evaluation import evaluation_of, find_neighbours, gallery_rows
from lifted_lightning.data.datamodule import data_of
from lifted_lightning.files import atomic
from lifted_lightning.metrics import EmbeddingSet

COLUMNS = ("class", "queries", "recall@1", "most_confused_with", "times")


Row = list[Any]


class PerClassTable(Callback):
    """Writes Recall@1 of each test class, worst first, to ``per_class.csv`` in the run's folder.

    A class's row has the number of its queries (those with another image of the class in the gallery), the
    share of them whose nearest neighbour is of the class, and the class that the nearest neighbours of the
    others most often are, with how often. Loggers that have ``log_table`` get the table as
    ``plots/per_class_test``.
    """

    def on_embedding_set(
        self, trainer: Trainer, module: LightningModule, stage: str, embedding_set: EmbeddingSet
    ) -> None:
        """Count, search the neighbours of wrong answers, write."""
        if not trainer.is_global_zero or stage != "test":
            return
        rows = per_class_rows(trainer, stage, embedding_set)
        write_table(Path(trainer.default_root_dir) / "per_class.csv", rows)
        for logger in trainer.loggers:
            if hasattr(logger, "log_table"):
                logger.log_table("plots/per_class_test", columns=list(COLUMNS), data=rows, step=trainer.global_step)


def per_class_rows(trainer: Trainer, stage: str, embedding_set: EmbeddingSet) -> list[Row]:
    """A row of ``COLUMNS`` for each class: the lowest recall first, then the class with more queries."""
    evaluation = evaluation_of(trainer)
    names = data_of(trainer).class_names
    ranking = evaluation.ranking
    wrong = ranking.queries[ranking.rank > 1].cpu().numpy()
    gallery = gallery_rows(trainer, stage, embedding_set)
    found, _ = find_neighbours(embedding_set, wrong, gallery, 1, evaluation.distance)
    labels = embedding_set.labels.cpu().numpy()
    own, nearest = labels[wrong], labels[found[:, 0]]
    rows: list[Row] = []
    for label, recall, count in zip(*(column.tolist() for column in ranking.per_class_recall()), strict=True):
        # With ties the nearest may be of the query's own class although the answer counts as wrong.
        others, times = np.unique(nearest[(own == label) & (nearest != label)], return_counts=True)
        confused = names[others[times.argmax()]] if len(others) else ""
        rows.append([names[label], count, recall, confused, int(times.max(initial=0))])
    return sorted(rows, key=lambda row: (row[2], -row[1]))


def write_table(path: Path, rows: list[Row]) -> None:
    """Write the rows as CSV, whole or not at all."""
    with atomic(path, "w") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


KEY = "plots/recall_curve_test"


class RecallCurve(Callback):
    """Gives W&B the test's Recall@K for K = 1, 2, 4, … as a line and a table, ``plots/recall_curve_test``."""

    def on_embedding_set(
        self, trainer: Trainer, module: LightningModule, stage: str, embedding_set: EmbeddingSet
    ) -> None:
        """Count how many queries are answered by rank K, and log it."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not trainer.is_global_zero or stage != "test" or not loggers:
            return
        import wandb

        ks = [1 << power for power in range(11) if 1 << power < len(embedding_set.labels)]
        recall = evaluation_of(trainer).ranking.metrics(ks)
        rows: list[list[float]] = [[k, recall[f"recall@{k}"]] for k in ks]
        for logger in loggers:
            table = wandb.Table(columns=["K", "recall"], data=rows)
            chart = wandb.plot.line(table, "K", "recall", title="Recall@K, test")
            logger.experiment.log({KEY: chart, "trainer/global_step": trainer.global_step})
