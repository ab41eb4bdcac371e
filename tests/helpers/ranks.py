"""Calls of a function in several real processes at once, the ranks of one run.

They are forked from a server that has imported all, since importing Lightning takes seconds, and find each other as
processes of torchrun do: by variables of the environment, on the loopback interface.
"""

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lifted_lightning.commands.fit", "tests.helpers.faults"])
DEADLINE = 120.0  # seconds that a run may take


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment_of(rank: int, world_size: int, port: int) -> dict[str, str]:
    """What torchrun sets in the processes that it starts; nothing for one process alone."""
    if world_size == 1:
        return {}
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": world_size}
    numbers |= {"LOCAL_WORLD_SIZE": world_size, "TORCHELASTIC_RUN_ID": port, "MASTER_PORT": port}
    where = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    return where | {name: str(number) for name, number in numbers.items()}


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, joined: bool = True) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes. and give what each returned, in rank order.

    ``function`` is defined at the top of a module, and all that goes in and out can be pickled. The processes are
    ``joined`` in one gloo group; if not, whoever trains there joins them, as Lightning does.

    Raises:
        RuntimeError: if a rank raises or ends without an answer, with its traceback.
    """
    port = free_port()
    processes, answers = [], []
    for rank in range(world_size):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        variables = environment_of(rank, world_size, port)
        process = CONTEXT.Process(target=_rank, args=(sender, variables, joined, function, args))
        process.start()
        sender.close()
        processes.append(process)
        answers.append(receiver)
    try:
        return [_answer(rank, answer) for rank, answer in enumerate(answers)]
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


def _answer(rank: int, answer: Connection) -> Any:
    if not answer.poll(DEADLINE * 2):
        raise RuntimeError(f"rank {rank} gave no answer")
    try:
        failure, result = pickle.loads(answer.recv_bytes())
    except EOFError:
        raise RuntimeError(f"rank {rank} ended without an answer") from None
    if failure:
        raise RuntimeError(f"rank {rank} raised\n{failure}")
    return result


def _rank(
    answer: Connection, variables: dict[str, str], joined: bool, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    os.environ.update(variables)
    torch.set_num_threads(1)
    try:
        if joined:
            dist.init_process_group("gloo", timeout=timedelta(seconds=DEADLINE / 2))
        result = (None, function(*args))
        if joined:
            dist.barrier()  # nobody leaves while another still needs it
    except Exception:
        result = (traceback.format_exc(), None)
    # By value: a tensor in shared memory could not be opened any more once this process has ended.
    answer.send_bytes(pickle.dumps(result))
    if dist.is_initialized():
        dist.destroy_process_group()
