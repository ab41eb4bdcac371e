"""A rank that fails ends the whole run within a minute, with one line that says why, from the rank that knows."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch

from lifted_lightning.processes import started_by_lightning
from tests.helpers import faults
from tests.helpers.lifted import DEADLINE, Run, lifted
from tests.helpers.ranks import free_port
from tests.training.test_resume import BASE, load, rows

FAULT = ["--trainer.devices=2", "--trainer.callbacks+=tests.helpers.faults.Fault"]
NAN = "--model.network=tests.helpers.faults.NaNFrom"


def arguments(folder: Path, *more: str) -> list[str]:
    own = [a for a in BASE if not a.startswith("--model.network")] if NAN in more else BASE
    return [*own, f"--runs_dir={folder}", f"--data.cache_dir={folder / 'cache'}", *more]


def fault(rank: int, kind: str, busy: float = 0.0) -> list[str]:
    settings = {"rank": rank, "kind": kind, "busy": busy}
    return [*FAULT, *(f"--trainer.callbacks.{name}={value}" for name, value in settings.items())]


def said(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("lifted fit: ")]


def start(folder: Path, *more: str) -> "subprocess.Popen[str]":
    """The real command with Lightning's own launcher; all its processes write to one pipe."""
    environment = os.environ | {"WANDB_MODE": "disabled", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lifted_lightning.cli", *arguments(folder, *more)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def launched(folder: Path, *more: str) -> tuple[int, str, float]:
    """Exit code, output and seconds of that command, when the last of its processes is gone."""
    began = time.monotonic()
    process = start(folder, *more)
    output, _ = process.communicate(timeout=DEADLINE)
    return process.returncode, output, time.monotonic() - began


def forked(folder: Path, world_size: int, *more: str) -> tuple[list[int | None], Run]:
    """Exit codes of ranks as torchrun has them: when the first has failed, it tells the others to end."""
    run = lifted(arguments(folder, *more, f"--trainer.devices={world_size}"), folder, world_size)
    wait([process.sentinel for process in run.processes], 60)
    for process in run.processes:
        process.join(1)
        process.terminate()
    return run.wait(60), run


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_loss_that_is_not_a_number(tmp_path: Path, world_size: int) -> None:
    codes, run = forked(tmp_path, world_size, NAN)
    assert codes == [1, -signal.SIGTERM][:world_size], run.output
    (line,) = said(run.output)
    assert "the loss is nan at step 2" in line
    assert "batch rows [2" in line
    assert "Traceback" not in run.output
    assert not list(tmp_path.glob("e/run/result.json"))
    assert not list(tmp_path.glob("e/run/checkpoints/*")), "step 2 is the one after which the first would be saved"


def test_a_loss_that_is_not_a_number_is_seen_when_a_step_is_logged(tmp_path: Path) -> None:
    codes, run = forked(tmp_path, 1, NAN, f"{NAN.split('=')[0]}.call=5")
    assert codes == [1], run.output
    assert "the loss is not finite since step 4, as seen after step 5" in said(run.output)[0]
    saved = torch.load(tmp_path / "e" / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 3
    assert all(torch.isfinite(weight).all() for weight in saved["state_dict"].values())


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_on_one_rank(tmp_path: Path, rank: int) -> None:
    codes, run = forked(tmp_path, 2, *fault(rank, "raise"))
    assert (codes[rank], codes[1 - rank]) == (1, -signal.SIGTERM), run.output
    (line,) = said(run.output)
    assert f"rank {rank}: ValueError: my own error" in line
    assert "faults.py:" in line
    assert "Traceback" not in run.output


@pytest.mark.slow
def test_an_exception_on_a_rank_while_the_other_is_busy(tmp_path: Path) -> None:
    """By Lightning's own launcher, which then kills what is left."""
    code, output, seconds = launched(tmp_path, *fault(1, "raise", busy=100))
    assert code != 0
    assert seconds < 60
    assert said(output) == [said(output)[0]]
    assert "rank 1: ValueError: my own error" in said(output)[0]


@pytest.mark.slow
@pytest.mark.parametrize("busy", [0, 100], ids=["waiting", "busy"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed(tmp_path: Path, rank: int, busy: float) -> None:
    code, output, seconds = launched(tmp_path, *fault(rank, "kill", busy))
    assert seconds < 60
    assert code == -signal.SIGKILL if rank == 0 else code != 0
    assert not said(output), "who was killed says nothing, and the others know no more than that a connection is lost"
    assert ("[rank: 1] Child process" in output) == (rank == 1), "Lightning's observer"
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_rank_that_hangs(tmp_path: Path) -> None:
    """The other waits for as long as the process group's timeout says, which is 30 minutes by default."""
    short = ["--trainer.strategy=DDPStrategy", "--trainer.strategy.timeout=0:00:30"]
    code, output, _ = launched(tmp_path, *fault(1, "hang"), *short)
    assert code == 1
    (line,) = said(output)
    assert line.startswith("lifted fit: rank 0: another rank is gone, or has not answered")
    assert "Traceback" not in output


@pytest.mark.slow
def test_debug_shows_the_traceback_of_each_rank(tmp_path: Path) -> None:
    code, output, _ = launched(tmp_path, *fault(1, "raise"), "--debug")
    assert code == 1
    assert "Traceback" in output
    assert "ValueError: my own error" in output


@pytest.mark.slow
def test_sigterm_to_the_launching_process(tmp_path: Path) -> None:
    """All ranks end, with the code of the signal, and the run can be resumed."""
    process = start(tmp_path, "--trainer.devices=2", "--trainer.max_steps=1000000")
    last = tmp_path / "e" / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert sum("--ckpt_path last" in line for line in output.splitlines()) == 1
    assert "Traceback" not in output
    assert not said(output)


def test_slurm_starts_the_ranks_but_not_in_an_interactive_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    for name in ("train.sh", "bash", "interactive"):  # Lightning's SLURMEnvironment has these names
        monkeypatch.setenv("SLURM_JOB_NAME", name)
        assert started_by_lightning() == (name != "train.sh")


def slow_end() -> None:
    from lifted_lightning.commands import fit

    end_record = fit.end_record
    fit.end_record = lambda *args, **settings: (time.sleep(3), end_record(*args, **settings))  # type: ignore


@pytest.mark.slow
def test_told_to_stop_rank_zero_ends_first(tmp_path: Path) -> None:
    """It ends its records, and srun or torchrun would kill it once the other has ended."""
    prepare = [slow_end, faults.at("step", 10, signal.SIGTERM)]
    run = lifted(arguments(tmp_path, "--trainer.devices=2"), tmp_path, 2, prepare)
    assert wait([process.sentinel for process in run.processes], 60) == [run.processes[0].sentinel]
    assert run.wait(5) == [128 + signal.SIGTERM] * 2, run.output


@pytest.mark.slow
def test_two_torchruns_train_as_one_process_does(tmp_path: Path) -> None:
    """A process on each of two nodes; how many nodes and devices there are, nobody has to say."""
    more = ["--trainer.precision=64-true", "--model.network.dropout=0"]
    assert lifted(arguments(tmp_path / "one", *more), tmp_path).wait() == [0]
    nodes = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    command = [sys.executable, "-m", "torch.distributed.run", *nodes]
    environment = os.environ | {"WANDB_MODE": "disabled", "GLOO_SOCKET_IFNAME": "lo"}
    line = ["-m", "lifted_lightning.cli", *arguments(tmp_path / "two", *more)]
    processes = [
        subprocess.Popen(
            [*command, f"--node-rank={node}", *line], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment,
        )
        for node in (0, 1)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    one, two = (tmp_path / name / "e" / "run" for name in ("one", "two"))
    assert json.loads((two / "result.json").read_text())["world_size"] == 2
    weights = [load(folder, "last")["state_dict"] for folder in (one, two)]
    for name in weights[0]:
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(rows(two), rows(one), strict=True):
        assert {key: ours[key] == "" for key in ours} == {key: theirs[key] == "" for key in theirs}
        assert [float(v or 0) for v in ours.values()] == pytest.approx([float(v or 0) for v in theirs.values()])


CHILD = """
import sys, time
from lifted_lightning.processes import end_with_parent
end_with_parent(int(sys.argv[1]))
print("lives", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("before", [False, True], ids=["afterwards", "before it asks for it"])
def test_a_process_ends_with_its_parent(before: bool) -> None:
    script = "import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], {}]); {}"
    parent = script.format(*(("'-1'", "None") if before else ("str(os.getpid())", "input()")))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", parent, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    if not before:
        assert process.stdout.readline() == "lives\n"
        process.kill()
    assert process.communicate()[0] == ""
    assert time.monotonic() - began < 30
