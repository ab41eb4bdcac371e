"""The table that ends a run, on the terminal."""

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lifted_lightning import runs

ORDER = ("recall@", "r_precision", "map@r", "nmi", "ami", "f1")


def print_summary(folder: Path, stage: str = "test") -> None:
    """Print the metrics of a run beside its baseline's, its folder, and what to do next."""
    result = json.loads((folder / runs.RESULT).read_text(encoding="utf-8"))
    folder = Path(os.path.relpath(folder))
    console = Console(highlight=False, soft_wrap=True)
    console.print(metrics_table(result, stage))
    console.print(f"run folder: {folder}")
    if any((folder / runs.PLOTS).glob("*.png")):
        console.print(f"pictures:   {folder / runs.PLOTS}")
    if any(folder.glob("wandb/offline-run-*")):
        records = folder / "wandb" / "offline-run-*"
        console.print(f"curves:     wandb leet {folder / 'wandb'}   (upload: wandb sync {records})")
    if stage == "test":
        console.print(f"next seed:  lifted fit --config {folder / 'config.yaml'} --seed_everything 1")


def metrics_table(result: dict[str, Any], stage: str) -> Table:
    """One row a metric: the embedding's value, and the same on the baseline."""
    classes = "unseen classes" if stage == "test" else "validation classes"
    trained = result["loss"] if result["steps"] else "untrained (no --ckpt_path)"
    table = Table(title=f"{result['dataset']}, {trained}, {result['embedding_size']}-d: {classes}")
    table.add_column("metric")
    table.add_column("embedding", justify="right")
    if result["baseline"]:
        table.add_column(result["baseline_name"], justify="right")
    values = result[stage]
    shown = [name for prefix in ORDER for name in values if name.startswith(prefix)]
    for name in shown:
        baseline = result["baseline"].get(name)
        value = values[name]  # None where no query has a positive
        cells = [name, "–" if value is None else f"{value:.3f}"]
        if result["baseline"]:
            cells.append("" if baseline is None else f"{baseline:.3f}")
        table.add_row(*cells)
    return table
