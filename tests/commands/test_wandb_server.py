"""Runs that W&B records online, with the real client and a stand-in for its server."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.test_records import RUN
from tests.helpers.wandb_server import StandIn

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("fate", ["lives", "talks nonsense", "dies"])
def test_the_run_ends_well_whatever_the_server_does(fate: str, tmp_path: Path) -> None:
    server = StandIn()
    server.nonsense = fate == "talks nonsense"
    run = subprocess.Popen(
        [sys.executable, "-m", "lifted_lightning.cli", *RUN, "--runs_dir", str(tmp_path), "--logger_timeout=10"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {
            "WANDB_MODE": "online", "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path),
        },
    )  # fmt: skip
    assert server.begun.wait(120)
    if fate == "dies":
        server.die()
    start = time.monotonic()
    text, _ = run.communicate(timeout=200)
    print(text)
    assert run.returncode == 0
    assert "Traceback" not in text
    assert json.loads((tmp_path / "e" / "run" / "result.json").read_text())["test"]
    if fate == "dies":
        assert time.monotonic() - start < 90
        last = text.rstrip().splitlines()[-1]
        assert last.startswith("W&B has not taken all of the record")
        (record,) = (tmp_path / "e" / "run" / "wandb").glob("run-*/run-*.wandb")
        assert str(record.parent.name) in last
        assert b"train/loss" in record.read_bytes(), "the record is there to be uploaded"
    elif fate == "lives":
        assert {"train/loss", "validation/recall@1", "test/recall@1", "baseline/recall@1", "lr/head"} <= server.metrics
