"""The progress bar: epochs counted to the last, and nothing on it that says nothing."""

import json
import math
import os
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

from lifted_lightning.runs.folder import PLOTS, RESULT
from lifted_lightning.runs.settings import metrics_in_order


class RunProgressBar(RichProgressBar):
    """Lightning's bar, which knows the number of epochs also where ``max_steps`` sets the end."""

    shows_loss = True  # of itself, without Lightning's prog_bar

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=False)
        self._shown: dict[str, Any] = {}

    def _get_train_description(self, current_epoch: int) -> str:
        trainer, epochs = self.trainer, self.trainer.max_epochs or 0
        if trainer.max_steps > 0 and math.isfinite(trainer.num_training_batches):
            epochs = math.ceil(trainer.max_steps / max(1, int(trainer.num_training_batches)))
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Anew where a step is logged and after a validation: to read them waits for the device."""
        every: int = trainer.log_every_n_steps or 1  # type: ignore[attr-defined]
        if not trainer.training or trainer.global_step % every == 0:
            items = super().get_metrics(trainer, pl_module)
            loss = {name: float(value) for name, value in trainer.callback_metrics.items() if name == "train/loss"}
            self._shown = {name: value for name, value in items.items() if name != "v_num"} | loss
        return self._shown


def print_summary(folder: Path, stage: str = "test", trained: bool = True) -> None:
    """Print the metrics of a run beside its baseline's, its folder, and, if it trained, how to repeat it."""
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    folder = Path(os.path.relpath(folder))
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(metrics_table(result, stage))
    console.print(f"run folder: {folder}")
    if trained:
        by = f", by {metric}" if (metric := result.get("selection", {}).get("metric")) else ""
        console.print(f"selected:   the checkpoint of step {result['selected_step']} of {result['steps']}{by}")
    if any((folder / PLOTS).glob("*.png")):
        console.print(f"pictures:   {folder / PLOTS}")
    wandb = Path(os.environ.get("WANDB_DIR") or folder) / "wandb"
    if any(wandb.glob("offline-run-*")):
        console.print(f"curves:     wandb leet {wandb}   (upload: wandb sync {wandb / 'offline-run-*'})")
    if stage == "test" and trained:
        again = f"lifted fit --config {folder / 'config.yaml'}"
        folds, fold = (result["config"]["data"].get(name) for name in ("folds", "fold"))
        if folds and fold + 1 < folds:
            console.print(f"next fold:  {again} --data.fold {fold + 1}")
        console.print(f"next seed:  {again} --seed_everything {result['seed'] + 1}")


def metrics_table(result: dict[str, Any], stage: str) -> Table:
    """One row a metric: the embedding's value, and the same on the baseline."""
    classes = "unseen classes" if stage == "test" else "validation classes"
    if stage in (parts := result.get("part", {})):
        classes += ", a part: {:,} of {:,} images".format(*parts[stage])
    trained = result["loss"] if result["steps"] else "untrained (no --ckpt_path)"
    table = Table(title=f"{result['dataset']}, {trained}, {result['embedding_size']}-d: {classes}")
    table.add_column("metric")
    table.add_column("embedding", justify="right")
    if result["baseline"]:
        table.add_column(result["baseline_name"], justify="right")
    values = result[stage]
    for name in metrics_in_order(values):
        baseline = result["baseline"].get(name)
        value = values[name]  # None where no query has a positive
        cells = [name, "–" if value is None else f"{value:.3f}"]
        if result["baseline"]:
            cells.append("" if baseline is None else f"{baseline:.3f}")
        table.add_row(*cells)
    return table
