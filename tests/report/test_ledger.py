"""The tables of costs and provenance."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from lifted_lightning.cli import main
from lifted_lightning.report.tables import costs, provenance
from lifted_lightning.runs.evaluations import note_evaluation
from tests.helpers.run_folders import make_run, make_sweep
from tests.report.test_compare import compared
from tests.report.test_tables import cells_of


def ledger(core: float, gpu: float = 0.0, **changes: Any) -> dict[str, Any]:
    """The entries of a run's result."""
    devices = [{"name": "A_100 & Co", "count": 2}]
    fit = {"devices": devices, "precision": "32-true", "core_seconds": core, "gpu_seconds": gpu, "images": 12800}
    fit |= {"peak_resident_bytes": 3_000_000_000, "peak_gpu_bytes": 0}
    cost = {"fit": fit, "evaluation": {"core_seconds": 2.0, "gpu_seconds": 0.0}, "multiply_adds": 4_100_000_000}
    cost["parameters"] = {"all": 25_600_000, "trained": 131_136, "loss": 0}
    selection = {"split": "validation", "metric": "validation/map@r", "step": 100, "looks": 5}
    return {"cost": cost, "selection": selection, "tuning_trials": None, "test_looks": 1} | changes


def test_rows_have_what_their_runs_cost(tmp_path: Path) -> None:
    make_run(tmp_path / "a", 0, **ledger(100.0))
    make_run(tmp_path / "b", 1, **ledger(300.0))
    make_run(tmp_path / "old", 0, "TripletLoss")
    head, old, row = cells_of(costs(compared(tmp_path)))
    assert head == ["loss", "seeds", "device", "precision", "fit, core-s", "evaluation, core-s", "memory, MB",
                    "parameters, M", "trained, M", "multiply-adds, M", "images seen"]  # fmt: skip
    assert old[2:] == ["–"] * 9
    assert row[2:] == [
        "2 × A_100 \\& Co",
        "32-true",
        "200 ± 1,271",
        "2.00",
        "3,000",
        "25.6",
        "0.131",
        "4,100",
        "12,800",
    ]
    make_run(tmp_path / "c", 2, **ledger(300.0, gpu=60.0))
    assert "fit, GPU-s" in cells_of(costs(compared(tmp_path)))[0]


def test_rows_have_how_their_runs_came_about(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", 0, **ledger(1.0, tuning_trials=24))
    last = {"split": "none", "metric": None, "step": 100, "looks": 0}
    make_run(tmp_path / "b", 1, **ledger(1.0, selection=last, tuning_trials=24))
    head, row = cells_of(provenance(compared(tmp_path)))
    assert head[2:] == ["selected by", "commit", "looks at validation", "looks at test", "tuning trials"]
    assert row[2:] == ["none: the last; validation/map@r", "aaaaaaa", "2.50 ± 31.77", "1", "24"]
    for _ in range(3):
        note_evaluation(run / "checkpoints" / "best.ckpt", "test", "omniglot", 100)
    assert cells_of(provenance(compared(tmp_path)))[1][-2].startswith("2 ± "), "three and one"


def test_a_run_that_went_on_at_another_commit_tells_both(tmp_path: Path) -> None:
    make_run(
        tmp_path / "a", git={"commit": "b" * 40, "changed": True, "before": [{"commit": "a" * 40, "changed": False}]}
    )
    make_run(tmp_path / "b", 1, **ledger(1.0))
    told = dict(zip(*cells_of(provenance(compared(tmp_path))), strict=True))
    assert told["commit"] == "aaaaaaa; aaaaaaa, then bbbbbbb with uncommitted changes"


def test_they_are_in_every_format_and_left_out_of_older_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "new" / "a", 0, **ledger(100.0))
    make_sweep(tmp_path / "old")
    for name in ("new", "old"):
        assert main(["report", str(tmp_path / name), "--out", str(tmp_path / "out" / name)]) == 0
    new, old = ({path.name: path for path in (tmp_path / "out" / name).iterdir()} for name in ("new", "old"))
    files = {"costs.csv", "costs.tex", "provenance.csv", "provenance.tex"}
    assert files <= new.keys()
    assert not files & old.keys()
    told = next(csv.DictReader(new["costs.csv"].open()))
    assert [float(told[name]) for name in ("fit, core-s", "memory, MB", "parameters, M")] == [100, 3000, 25.6]
    texts = {"index.html": "2 × A_100 &amp; Co", "report.md": r"2 × A_100 \& Co", "costs.csv": "2 × A_100 & Co"}
    for name, text in (texts | {"costs.tex": r"2 $\times$ A\_100 \& Co"}).items():
        assert text in new[name].read_text(), name
    for name in ("index.html", "report.md"):
        assert all(title in new[name].read_text() for title in ("What the runs cost", "How the runs came about"))
        assert "What the runs cost" not in old[name].read_text()


@pytest.mark.parametrize(
    "broken", [{"cost": []}, {"cost": {"fit": 3}}, {"selection": "x"}, {"cost": {"fit": {"devices": 1}}}]
)
def test_an_odd_result_is_read_all_the_same(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = make_run(tmp_path / "a", **ledger(1.0))
    content = json.loads((run / "result.json").read_text()) | broken
    (run / "result.json").write_text(json.dumps(content))
    assert len(provenance(compared(tmp_path))) == 1
    costs(compared(tmp_path))
