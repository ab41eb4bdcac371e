"""Which classes of the test retrieval fails on and what it takes them for, and its Recall@K for many K."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lifted_lightning.data.datamodule import data_of
from lifted_lightning.files import atomic, csv_text
from lifted_lightning.metrics.collection import Evaluation

COLUMNS = ("class", "queries", "recall@1", "most_confused_with", "times")
CONFUSIONS = ("class", "taken_for", "queries", "times", "rate")
MOST = 1000  # pairs of classes that loggers are given; the file has all
RECALL_CURVE = "plots/recall_curve_test"

Row = list[Any]


class TablesOfTest(Callback):
    """Tables of the test: Recall@1 of each class, worst first; pairs of classes; Recall@K for K = 1, 2, 4, …

    The first is written to ``per_class.csv`` in the run's folder, and given to loggers that have ``log_table``, when
    the test is over, as ``plots/per_class_test``. A class's row has the number of its queries (those with another
    image of the class in the gallery), the share of them whose nearest neighbour is of the class, and the class that
    the nearest neighbours of the others most often are, with how often.

    The second has a row for each class and another one that the nearest image of some of its queries is of, with the
    number of its queries, how many of them are taken for the other, and what share that is: the most frequent first.
    ``confusions.csv`` has all such pairs, ``plots/confusions_table_test`` the first thousand.

    W&B gets the third, as a line and a table, as ``plots/recall_curve_test``.
    """

    def __init__(self) -> None:
        self._tables: dict[str, tuple[Sequence[str], list[Row]]] = {}
        self._curve: list[Row] = []

    def on_evaluation(self, trainer: Trainer, module: LightningModule, evaluation: Evaluation) -> None:
        """Make the tables of a test, and write the first two."""
        if not trainer.is_global_zero or evaluation.stage != "test":
            return
        names, folder = data_of(trainer).class_names, Path(trainer.default_root_dir)
        classes, pairs = rows_of(evaluation, names)
        self._tables = {
            "plots/per_class_test": (COLUMNS, classes), "plots/confusions_table_test": (CONFUSIONS, pairs[:MOST]),
        }  # fmt: skip
        ks = [1 << power for power in range(11) if 1 << power < len(evaluation)]
        self._curve = [[k, evaluation.ranking.metrics([k])[f"recall@{k}"]] for k in ks]
        for name, columns, rows in (("per_class", COLUMNS, classes), ("confusions", CONFUSIONS, pairs)):
            with atomic(folder / f"{name}.csv", "w") as file:
                csv.writer(file).writerows([columns, *([*map(csv_text, row)] for row in rows)])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers if self._tables else ():
            log: Any = getattr(logger, "log_table", None)
            for key, (columns, rows) in self._tables.items() if log else ():
                if rows:
                    log(key, columns=list(columns), data=rows, step=trainer.global_step)
            if isinstance(logger, WandbLogger):
                import wandb

                table = wandb.Table(columns=["K", "recall"], data=self._curve)
                chart: Any = wandb.plot.line(table, "K", "recall", title="Recall@K, test")
                logger.log_metrics({RECALL_CURVE: chart}, trainer.global_step)


def rows_of(evaluation: Evaluation, names: Sequence[str]) -> tuple[list[Row], list[Row]]:
    """A row of ``COLUMNS`` for each class, the lowest recall first, and one of ``CONFUSIONS`` for each pair of classes.

    Of classes of one recall the one with more queries comes first, of pairs as frequent that with the higher rate.
    """
    pairs, times = (part.tolist() for part in evaluation.confusions())
    labels, recalls, counts = (part.tolist() for part in evaluation.ranking.per_class_recall())
    queries, most = dict(zip(labels, counts, strict=True)), dict[int, tuple[str, int]]()
    confused: list[Row] = []
    for (own, other), n in zip(pairs, times, strict=True):  # the most frequent first
        most.setdefault(own, (names[other], n))
        confused.append([names[own], names[other], queries[own], n, n / queries[own]])
    classes = zip(labels, counts, recalls, strict=True)
    rows: list[Row] = [[names[label], n, recall, *most.get(label, ("", 0))] for label, n, recall in classes]
    return sorted(rows, key=lambda row: (row[2], -row[1])), sorted(confused, key=lambda row: (-row[3], -row[4]))
