"""Runs of `lifted` as a user starts them, each rank a real process."""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.helpers.ranks import CONTEXT, DEADLINE, environment_of, free_port


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

    Output goes to files in ``folder``; ``environment`` is set in every process, and ``prepare[r]``, picklable, called
    in that of rank r before the run.
    """
    port = free_port()
    run = Run([], [])
    for rank in range(world_size):
        log = folder / f"rank{rank}-{port}.log"
        variables = (environment or {}) | environment_of(rank, world_size, port)
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

    BackgroundPicture.on_evaluation = lambda *args: None  # type: ignore[method-assign]
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
