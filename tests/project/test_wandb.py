"""W&B's part of a run against a stand-in of its server: what arrives there, and what a bad server takes from a run.

All the faults and moments, and all the signals that may end a trial, are asked by `experiments/checks/wandb_*.py`.
"""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.checks import wandb_faults, wandb_sweeps
from experiments.checks.wandb_faults import RUN
from experiments.checks.wandb_sweeps import Case
from lifted_lightning.runs.folder import read_metrics
from tests.helpers.faults import at
from tests.helpers.lifted import lifted
from tests.helpers.wandb_server import Fault, StandIn

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def test_all_that_a_dashboard_needs_arrives_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    server = StandIn()
    environment = server.environment(tmp_path) | {"LIFTED_CACHE_DIR": str(tmp_path / "cache")}
    folder = tmp_path / "e" / "run"
    stopped = lifted([*RUN, "--runs_dir", str(tmp_path)], tmp_path, 1, [at("step", 8, signal.SIGTERM)], environment)
    assert stopped.wait() == [143], stopped.output
    (run,) = server.runs.values()
    assert (run.preempting, run.begun) == (True, 1)
    command = [sys.executable, "-m", "lifted_lightning.cli", "fit", f"--config={folder / 'config.yaml'}"]
    subprocess.run([*command, "--ckpt_path=last"], cwd=ROOT, env=environment, check=True, timeout=200)
    assert list(server.runs.values()) == [run], "it is the same run"
    assert (run.begun, run.exit_code) == (2, 0)

    assert run.settings["displayName"] == "e/run"
    assert run.settings["groupName"].startswith("glyphs/lifted-structure-64d-")
    assert run.settings["tags"] == ["LiftedStructureLoss", "glyphs", "64d", "e"]
    short = {"loss": "LiftedStructureLoss", "embedding_size": 64, "dataset": "glyphs", "seed": 0, "trunk": "ConvNet",
             "sampler": "PositivePairs", "model.loss.init_args.margin": 1.0}  # fmt: skip
    assert {key: run.config[key] for key in short} == short

    rows = read_metrics(folder / "metrics.csv")  # the run's own record
    for metric in ("train/loss", "lr/head", "batch/active_share", "validation/map@r", "test/recall@1"):
        own = [(int(row["step"]), pytest.approx(float(row[metric]), rel=1e-5)) for row in rows if row[metric]]
        assert own
        assert run.curve(metric) == own, metric
    result = json.loads((folder / "result.json").read_text())
    for stage, values in (("test", result["test"]), ("best", result["validation"])):
        for name, value in values.items():
            assert run.summary[f"{stage}/{name}"] == pytest.approx(value, abs=1e-6), f"{stage}/{name}"
    assert run.summary["baseline/test/recall@1"] == pytest.approx(result["baseline"]["recall@1"], abs=1e-6)
    fit = result["cost"]["fit"]
    assert run.summary["cost/fit/core_seconds"] == fit["core_seconds"] > 0
    assert run.summary["cost/multiply_adds"] == result["cost"]["multiply_adds"]
    assert (run.summary["selection/split"], run.summary["test_looks"]) == ("validation", 1)
    assert run.summary["versions/torch"] == result["versions"]["torch"]
    for picture in ("plots/tsne_test", "plots/gallery_test", "plots/confusions_test"):
        (name,) = (name for name in run.files if name.startswith(f"media/images/{picture}"))
        assert run.files[name].startswith(b"\x89PNG")
    tables = {table: [n for n in run.files if n.startswith(f"media/table/plots/{table}")] for table in
              ("per_class_test", "confusions_table_test", "recall_curve_test")}  # fmt: skip
    assert json.loads(run.files[tables["confusions_table_test"][0]])["columns"][:2] == ["class", "taken_for"]
    assert json.loads(run.files[tables["per_class_test"][0]])["columns"][:3] == ["class", "queries", "recall@1"]
    curve = dict(json.loads(run.files[tables["recall_curve_test"][0]])["data"])
    assert curve[1] == pytest.approx(result["test"]["recall@1"])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> wandb_faults.Ended:
    """A run whose server answers."""
    return wandb_faults.run(tmp_path_factory.mktemp("faults") / "good")


@pytest.mark.parametrize(
    ("fault", "moment"),
    [("dies", "training"), ("fails", "validation"), ("hangs", "start"), ("talks nonsense", "test"),
     ("refuses the key", "end")],
)  # fmt: skip
def test_a_bad_server_takes_nothing(fault: Fault, moment: str, good: wandb_faults.Ended) -> None:
    place = good.folder.parents[2] / moment
    ended = wandb_faults.run(place, fault, moment, ("--logger_timeout=6",))
    print(ended.text)
    told = wandb_faults.told(ended, good)
    assert re.fullmatch(wandb_faults.RIGHT, told), told


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[int, wandb_sweeps.Swept]:
    """A sweep that was left alone, of one process and of two."""
    place = tmp_path_factory.mktemp("sweeps")
    return {ranks: wandb_sweeps.sweep(place / f"unbroken{ranks}", None, ranks) for ranks in (1, 2)}


@pytest.mark.parametrize(
    ("case", "runs"),
    [
        (Case("rank 1", signal.SIGTERM, "after a checkpoint", ranks=2), 1),
        (Case("trial", signal.SIGKILL, "test"), 2),
    ],
    ids=str,
)
def test_a_trial_that_is_ended_goes_on(case: Case, runs: int, unbroken: dict[int, wandb_sweeps.Swept]) -> None:
    place = unbroken[1].notes.parents[1] / f"{case.to} {case.ranks}"
    swept = wandb_sweeps.sweep(place, case, case.ranks)
    print(swept.text)
    told = wandb_sweeps.told(swept, unbroken[case.ranks])
    assert told[0].isdigit(), told
    assert len(swept.server.runs) == runs
    assert len(unbroken[2].server.runs) == 1, "two ranks are one run"
