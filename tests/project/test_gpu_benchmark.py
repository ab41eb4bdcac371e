"""The script that measures a GPU, tiny and on the CPU: its parts run, and one that hangs costs itself alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measure(out: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, what gpu.json has, and the report."""
    command = [sys.executable, ROOT / "experiments/benchmarks/gpu.py", "--device", "cpu", "--tiny", "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *options], cwd=out.parent, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads((out / "gpu.json").read_text()), (out / "gpu.md").read_text()


@pytest.mark.slow
def test_every_part_is_measured(tmp_path: Path) -> None:
    code, written, report = measure(tmp_path / "out")
    assert code == 0, report
    assert all(ended.startswith("done") for ended in written["parts"].values())
    losses, evaluation = written["figures"]["losses"], written["figures"]["evaluation"]
    assert {row["loss"] for row in losses} > {"lifted", "triplet, all", "contrastive, squared, all"}
    assert all(row["ours"] > 0 and row["kernels"] > 0 for row in losses)
    assert all((row["peer"] or 1) > 0 for row in losses)
    assert all(0 < row["Recall@1"] <= 1 and row["seconds"] > 0 for row in evaluation)
    assert report.count("| lifted |") == 4
    assert "Recall@1" in written["figures"]["fits"][0]
    assert written["figures"]["training"][0]["share"] > 0
    assert "skipped" in report or "passed" in report


def test_a_part_that_hangs_costs_itself_alone(tmp_path: Path) -> None:
    code, written, report = measure(tmp_path / "out", "--parts", "losses", "evaluation", "--limit", "0.2")
    assert code == 1
    assert [ended.split(",")[0] for ended in written["parts"].values()] == ["killed by its limit"] * 2
    assert "## evaluation: killed" in report
