"""`lifted sweep` with real trials on a real Ray: crashes, kills, and a cluster that loses a machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from lifted_lightning.runs.folder import read_metrics
from lifted_lightning.sweep.plan import read_sweep
from lifted_lightning.sweep.trials import Trials

TINY = """
model:
  network: {class_path: ConvNet, init_args: {embedding_size: 8, channels: 1, width: 4, normalize: false}}
  loss: LiftedStructureLoss
  augment: {class_path: CropMirror, init_args: {mirror: false}}
  optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.001}}
data: {dataset: Glyphs, size: 16, channels: 1, batch_size: 16, batches_per_epoch: 5}
trainer: {max_steps: 10, check_val_every_n_epoch: 1, log_every_n_steps: 1}
last_checkpoint: {every_n_steps: 5}
test: false
tsne: {every_n: 0}
gallery: {every_n: 0}
confusions: {every_n: 0}
"""
OWN_LOSS = '''
import time
import torch
from lifted_lightning.losses import ContrastiveLoss

class Mine(torch.nn.Module):
    """Fails, or takes its time, as it is told."""

    def __init__(self, fail: bool = False, seconds: float = 0.0) -> None:
        super().__init__()
        self.fail, self.seconds, self.loss = fail, seconds, ContrastiveLoss()

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.fail:
            raise RuntimeError("my own error")
        time.sleep(self.seconds)
        return self.loss(embeddings, labels)
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with a configuration and a loss in a file of its own."""
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "own.py").write_text(OWN_LOSS)
    return tmp_path


def write_sweep(folder: Path, values: dict[str, Any], **entries: Any) -> None:
    content = {
        "method": "grid",
        "metric": {"name": "validation/map@r", "goal": "maximize"},
        "parameters": {name: {"values": of_it} for name, of_it in values.items()},
        "command": ["${env}", "lifted", "fit", "--config", "tiny.yaml", "${args}"],
    }
    (folder / "s.yaml").write_text(yaml.safe_dump(content | entries))


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lifted_lightning.cli", "sweep", "s.yaml", *arguments],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "WANDB_MODE": "disabled"},
    )  # fmt: skip


def output(process: subprocess.Popen[str], code: int = 0) -> str:
    """What it has printed when it has ended, with this exit code."""
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out
    return out


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return value


def results(folder: Path) -> dict[str, int]:
    return {p.parent.name: p.stat().st_mtime_ns for p in folder.glob("runs/s/*/result.json")}


def logged_steps(trial: Path) -> list[int]:
    return [int(row["step"]) for row in read_metrics(trial / "metrics.csv") if row.get("train/loss")]


def listening(process: subprocess.Popen[str]) -> set[str]:
    """The addresses on which a process and all that it started listen."""
    found = set()
    for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
        try:
            connections = one.net_connections(kind="inet")
        except psutil.NoSuchProcess:
            continue
        found |= {c.laddr.ip.removeprefix("::ffff:") for c in connections if c.status == psutil.CONN_LISTEN}
    return found


@pytest.mark.slow
def test_a_crash_is_retried_and_told_and_nobody_outside_can_connect(folder: Path) -> None:
    write_sweep(folder, {"model.loss": ["own.Mine"], "model.loss.init_args.fail": [True, False]})
    process = start(folder)
    wait_for(lambda: list(folder.glob("runs/s/*/config.yaml")))
    assert listening(process) == {"127.0.0.1"}
    out = output(process, 1)
    (done,) = results(folder)
    assert "fail-false" in done
    for told in ("it goes on from its last checkpoint", "my own error", "1 of 2 done, 1 failed"):
        assert told in out


@pytest.mark.slow
def test_killed_and_started_again_each_step_is_done_once(folder: Path) -> None:
    loss = {"model.loss": ["own.Mine"], "model.loss.init_args.seconds": [0.0, 0.5]}
    write_sweep(folder, {**loss, "seed_everything": [0, 1]})
    process = start(folder)
    wait_for(lambda: results(folder) and list(folder.glob("runs/s/*0.5*/checkpoints/last.ckpt")))
    trials = [p for p in psutil.Process(process.pid).children(recursive=True) if "fit" in p.cmdline()]
    assert trials
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(trials, timeout=30)
    assert alive == []
    finished = results(folder)
    assert 1 <= len(finished) < 4
    out = output(start(folder))
    assert "4 of 4 done" in out
    assert out.count("\nstarted ") + out.startswith("started ") == 4 - len(finished)
    after = results(folder)
    assert len(after) == 4
    assert finished.items() <= after.items()  # untouched
    assert [logged_steps(folder / "runs" / "s" / name) for name in after] == [list(range(10))] * 4
    assert "4 trials, all done" in output(start(folder))
    assert results(folder) == after


@pytest.mark.slow
def test_told_to_end_its_trials_save_a_checkpoint_first(folder: Path) -> None:
    loss = {"model.loss": ["own.Mine"], "model.loss.init_args.seconds": [0.5]}
    write_sweep(folder, {**loss, "last_checkpoint.every_n_steps": [100]})
    process = start(folder)
    wait_for(lambda: [path for path in folder.glob("runs/s/*") if len(logged_steps(path)) > 1])
    process.send_signal(signal.SIGTERM)
    out = output(process, 130)
    assert "lifted sweep: interrupted" in out
    assert "0 of 1 done" in out
    assert len(list(folder.glob("runs/s/*/checkpoints/last.ckpt"))) == 1


@pytest.mark.slow
def test_a_trial_stopped_early_saves_a_checkpoint_and_stays_stopped(folder: Path) -> None:
    """One at a time; the second seed's first validation is behind the first one's."""
    halving = {"type": "hyperband", "min_iter": 1, "eta": 2}
    loss = {"model.loss": ["own.Mine"], "model.loss.init_args.seconds": [0.3]}
    write_sweep(folder, {**loss, "seed_everything": [0, 1]}, early_terminate=halving)
    for _ in range(2):
        out = output(start(folder, "--cpus-per-trial", str(len(os.sched_getaffinity(0)))))
        (stopped,) = (p.parent for p in folder.glob("runs/s/*/trial.json") if "stopped" in p.read_text())
        assert len(results(folder)) == 1
        assert "seed1" in stopped.name
        assert len(logged_steps(stopped)) < 10
        assert (stopped / "checkpoints" / "last.ckpt").exists()
    assert "2 trials, all done" in out


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster of two nodes with a core each, on the loopback interface."""
    for name, value in {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    settings = {"num_cpus": 1, "object_store_memory": 80 * 1024**2, "include_dashboard": False}
    quick = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={**settings, "_system_config": quick})
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
def test_a_lost_machine_loses_nothing(folder: Path, cluster: Any) -> None:
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 1024**2)
    loss = {"model.loss": ["own.Mine"], "model.loss.init_args.seconds": [0.5]}
    write_sweep(folder, {**loss, "seed_everything": [0, 1, 2]})
    process = start(folder, "--address", cluster.address)
    wait_for(lambda: len(list(folder.glob("runs/s/*/checkpoints/last.ckpt"))) == 2)
    cluster.remove_node(second, allow_graceful=False)
    assert "3 of 3 done" in output(process)
    assert [logged_steps(folder / "runs" / "s" / name) for name in results(folder)] == [list(range(10))] * 3


@pytest.mark.slow
def test_what_is_not_there_is_one_line(folder: Path) -> None:
    write_sweep(folder, {"seed_everything": [0]})
    with socket.create_server(("127.0.0.1", 0)) as server:
        silent = f"127.0.0.1:{server.getsockname()[1]}"
        for arguments, line in [
            (["--gpus-per-trial", "64"], "a trial asks for 1 CPU cores and 64 GPUs"),
            (["--address", silent], f"--address {silent}: no Ray cluster answers there"),
        ]:
            out = output(start(folder, *arguments), 2)
            assert (line in out, out.count("\n")) == (True, 1), out
    assert not (folder / "runs").exists()


@pytest.fixture
def sweep(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process; gives exit code, output and errors."""
    from lifted_lightning.cli import main

    monkeypatch.chdir(folder)
    return lambda *arguments: (main(["sweep", "s.yaml", *arguments]), *capfd.readouterr())


def test_a_dry_run_says_what_will_be_drawn(folder: Path, sweep: Callable[..., tuple[int, str, str]]) -> None:
    write_sweep(folder, {}, method="random", run_cap=3, parameters={"seed_everything": {"min": 0, "max": 9}})
    code, out, _ = sweep("--dry-run")
    assert (code, out) == (0, "s: 3 more will be drawn from seed_everything\n")
    assert not (folder / "runs").exists()


def test_a_metric_of_one_s_own_may_choose(folder: Path, sweep: Callable[..., tuple[int, str, str]]) -> None:
    own = {"evaluation.metrics": ["tests.helpers.tiny_training.AsksRanks"]}
    write_sweep(folder, own, metric={"name": "validation/again", "goal": "minimize"})
    code, out, error = sweep("--dry-run")
    assert (code, error) == (0, "")
    assert "--evaluation.metrics=tests.helpers.tiny_training.AsksRanks" in out


def test_a_task_is_the_trial_of_its_number(folder: Path, sweep: Callable[..., tuple[int, str, str]]) -> None:
    write_sweep(folder, {"seed_everything": [0, 1, 2, 3]})
    whole = re.findall(r"^missing  (\S+)\n +(lifted .+)$", sweep("--dry-run")[1], re.MULTILINE)
    alone = [sweep("--task", str(k), "--dry-run")[1] for k in range(4)]
    assert alone == [f"missing  {path}\n         {line}\ns: 1 missing\n" for path, line in whole]
    for number in ("-1", "4"):
        code, _, error = sweep("--task", number)
        assert (code, "s.yaml has 4 trials; give 0 to 3" in error, error.count("\n")) == (2, True, 1), error
    assert not (folder / "runs").exists()
    code, _, error = sweep("--task", "0", "--gpus-per-trial", "1")
    assert (code, "leave out" in error) == (2, True)
    write_sweep(folder, {"seed_everything": [0]}, method="bayes", run_cap=2)
    assert "results of others" in sweep("--task", "0")[2]


def test_tasks_of_a_random_sweep_are_the_trials_that_it_draws(folder: Path, sweep: Any) -> None:
    from lifted_lightning.sweep.search import Search

    drawn = {"parameters": {"seed_everything": {"min": 0, "max": 9}}, "method": "random", "run_cap": 3}
    write_sweep(folder, {}, **drawn)
    read = read_sweep(folder / "s.yaml")
    search = Search(read, Trials(read, folder / "runs" / "s"), [])
    whole = [trial.folder.name for trial in iter(search.next, None)]
    assert len(set(whole)) == 3
    assert [re.findall(r"/s/(\S+)", sweep("--task", str(k), "--dry-run")[1])[0] for k in range(3)] == whole
    assert "has 3 trials; give 0 to 2" in sweep("--task", "3")[2]


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_task_is_told_to_stop_and_goes_on_and_the_sweep_has_it(folder: Path, ranks: int) -> None:
    """Several ranks are started by Lightning, which calls the same command for each."""
    slow = {"model.loss": ["own.Mine"], "model.loss.init_args.seconds": [0.3], "trainer.devices": [ranks]}
    write_sweep(folder, {**slow, "seed_everything": [0, 1]})
    process = start(folder, "--task", "1")
    (trial,) = wait_for(lambda: list(folder.glob("runs/s/*seed1*")))
    wait_for(lambda: logged_steps(trial))
    process.send_signal(signal.SIGTERM)
    assert "--ckpt_path last" in output(process, 143)
    assert 0 < len(logged_steps(trial)) < 10
    out = output(start(folder, "--task", "1"))
    assert f"run folder: runs/s/{trial.name}" in out
    assert logged_steps(trial) == list(range(10))
    assert output(start(folder, "--task", "1")) == "s: 1 trial, all done; next: lifted report runs/s\n"
    listed = output(start(folder, "--dry-run"))
    assert f"done     runs/s/{trial.name}" in listed
    assert "s: 1 done, 1 missing" in listed


@pytest.mark.parametrize(("run_cap", "seeds"), [(None, [0, 1, 2, 3]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])])
def test_a_grid_is_cut_at_its_cap_and_a_finished_one_left_alone(
    folder: Path, sweep: Callable[..., tuple[int, str, str]], run_cap: int | None, seeds: list[int]
) -> None:
    (folder / "same.yaml").write_text("# another name\n" + TINY)  # is no other trial, and counts once
    values = {"config": ["tiny.yaml", "same.yaml"], "seed_everything": [0, 1, 2, 3]}
    write_sweep(folder, values, command=["lifted", "fit", "${args}"], **({"run_cap": run_cap} if run_cap else {}))
    code, out, _ = sweep("--dry-run")
    assert code == 0
    listed = re.findall(r"lifted fit --config=(\w+)\.yaml --seed_everything=(\d)\n", out)
    assert [int(seed) for _, seed in listed] == seeds
    assert f"s: {len(seeds)} missing" in out
    assert not (folder / "runs").exists()
    for path in re.findall(r"missing  (\S+)", out):
        (folder / path).mkdir(parents=True)
        (folder / path / "result.json").write_text("{}")
    code, out, _ = sweep()
    assert (code, f"{len(seeds)} trials, all done" in out) == (0, True)
    assert len(list(folder.glob("runs/s/*"))) == len(seeds)
