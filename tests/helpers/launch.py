"""Runs of `lifted` and groups of Lightning's ranks as real processes, forked from one that has imported all.

Importing Lightning takes seconds, so a test that starts many runs forks them from a server that has done it.
Ranks are started as torchrun would: Lightning finds them in the environment.
"""

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lifted_lightning.commands.fit", "tests.helpers.images"])
DEADLINE = 120.0  # seconds that a run may take


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets in the processes that it starts."""
    if world_size == 1:
        return {}
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "GROUP_RANK": "0",
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "TORCHELASTIC_RUN_ID": str(port),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


@dataclass
class Run:
    """A run of `lifted`, of one process or several."""

    processes: list[BaseProcess]
    logs: list[Path]
    codes: list[int | None] = field(default_factory=list)

    @property
    def output(self) -> str:
        """What all its processes printed."""
        return "".join(log.read_text(errors="replace") for log in self.logs if log.exists())

    def wait(self, seconds: float = DEADLINE) -> list[int | None]:
        """Exit codes in rank order, a signal's as minus its number; None for one that had to be killed."""
        for process in self.processes:
            process.join(seconds)
        self.codes = [process.exitcode for process in self.processes]
        self.kill()
        return self.codes

    def kill(self) -> None:
        """SIGKILL to all that still live."""
        for process in self.processes:
            if process.is_alive():
                process.kill()
                process.join()


def lifted(
    arguments: Sequence[str],
    folder: Path,
    world_size: int = 1,
    prepare: Sequence[Callable[[], None] | None] = (),
    environment: dict[str, str] | None = None,
) -> Run:
    """Start `lifted` with these arguments on each of ``world_size`` ranks.

    Args:
        arguments: of the command line.
        folder: where the processes' output goes.
        world_size: number of processes.
        prepare: picklable, called in rank r's process before the run: ``prepare[r]``.
        environment: variables to set.
    """
    port = free_port()
    run = Run([], [])
    for rank in range(world_size):
        log = folder / f"rank{rank}-{port}.log"
        variables = (environment or {}) | rank_environment(rank, world_size, port)
        before = prepare[rank] if rank < len(prepare) else None
        process = CONTEXT.Process(target=_run_lifted, args=(list(arguments), log, variables, before))
        process.start()
        run.processes.append(process)
        run.logs.append(log)
    return run


def _run_lifted(arguments: list[str], log: Path, variables: dict[str, str], before: Callable[[], None] | None) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.environ.update({"WANDB_MODE": "disabled"} | variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method("fork", force=True)  # as in an ordinary process

    from lifted_lightning.callbacks.pictures import BackgroundPicture
    from lifted_lightning.cli import main

    BackgroundPicture.on_embedding_set = lambda *args: None  # type: ignore[method-assign]
    if before is not None:
        before()
    try:
        code = main(arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def run_lightning_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes that Lightning takes for its ranks.

    Returns:
        What each rank returned, in rank order.

    Raises:
        RuntimeError: if a rank raises or ends without an answer, with its traceback.
    """
    port = free_port()
    processes, answers = [], []
    for rank in range(world_size):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        arguments = (function, args, sender, rank_environment(rank, world_size, port))
        process = CONTEXT.Process(target=_answer, args=arguments)
        process.start()
        sender.close()
        processes.append(process)
        answers.append(receiver)
    try:
        results = []
        for rank, answer in enumerate(answers):
            if not answer.poll(DEADLINE * 2):
                raise RuntimeError(f"rank {rank} gave no answer")
            try:
                failure, result = pickle.loads(answer.recv_bytes())
            except EOFError:
                raise RuntimeError(f"rank {rank} ended without an answer") from None
            if failure:
                raise RuntimeError(f"rank {rank} raised\n{failure}")
            results.append(result)
        return results
    finally:
        for process in processes:
            process.join(5)
            if process.is_alive():
                process.kill()


def _answer(function: Callable[..., Any], args: tuple[Any, ...], answer: Any, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    try:
        result = (None, function(*args))
    except Exception:
        result = (traceback.format_exc(), None)
    answer.send_bytes(pickle.dumps(result))  # whole, not as handles to this process's memory
