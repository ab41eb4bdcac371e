"""Recall@K of the test against K, as a chart."""

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lifted_lightning.callbacks.evaluated import evaluation_of
from lifted_lightning.metrics import EmbeddingSet

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
