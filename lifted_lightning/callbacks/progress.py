"""The progress bar: epochs counted to the last, and nothing on it that says nothing."""

import math
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar


class RunProgressBar(RichProgressBar):
    """Lightning's bar, which knows the number of epochs also where ``max_steps`` sets the end."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=False)

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self._epochs(self.trainer)
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs else "")

    @staticmethod
    def _epochs(trainer: Trainer) -> int | None:
        if trainer.max_steps > 0 and math.isfinite(trainer.num_training_batches):
            return math.ceil(trainer.max_steps / max(1, int(trainer.num_training_batches)))
        return trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else None

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        items = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in items.items() if name != "v_num"}
