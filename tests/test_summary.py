"""The table that ends a run."""

import io

from rich.console import Console

from lifted_lightning.summary import metrics_table


def test_a_metric_without_a_value_is_a_dash() -> None:
    result = {
        "dataset": "own", "loss": "TripletLoss", "embedding_size": 8, "baseline_name": "raw pixels",
        "test": {"recall@1": None, "map@r": 0.25}, "baseline": {"recall@1": None, "map@r": 0.125},
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=80)
    console.print(metrics_table(result, "test"))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert next(line.split() for line in lines if "recall@1" in line)[3] == "–"
    assert next(line.split() for line in lines if "map@r" in line)[3:6:2] == ["0.250", "0.125"]
