"""Runs a function in several real processes joined by gloo on the loopback interface."""

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
import torch.multiprocessing as mp

TIMEOUT = timedelta(seconds=60)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Call ``function(*args)`` in ``world_size`` processes of one gloo group.

    Args:
        function: picklable: defined at the top of a module.
        world_size: number of processes.
        args: picklable arguments, the same for every rank.

    Returns:
        What each rank returned, in rank order.

    Raises:
        RuntimeError: if a rank raises or ends without an answer, with its traceback.
    """
    context = mp.get_context("spawn")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes, answers = [], []
    for rank in range(world_size):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_rank, args=(rank, world_size, port, sender, function, args), daemon=True)
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
    if not answer.poll(TIMEOUT.total_seconds() * 2):
        raise RuntimeError(f"rank {rank} gave no answer")
    try:
        failure, result = pickle.loads(answer.recv_bytes())
    except EOFError:
        raise RuntimeError(f"rank {rank} ended without an answer") from None
    if failure:
        raise RuntimeError(f"rank {rank} raised\n{failure}")
    return result


def _rank(
    rank: int,
    world_size: int,
    port: int,
    answer: Connection,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size, timeout=TIMEOUT
        )
        result = function(*args)
        dist.barrier()  # nobody leaves while another still needs it
        _send(answer, None, result)
        dist.destroy_process_group()
    except Exception:
        _send(answer, traceback.format_exc(), None)


def _send(answer: Connection, failure: str | None, result: Any) -> None:
    # By value: a tensor in shared memory could not be opened any more once this process has ended.
    answer.send_bytes(pickle.dumps((failure, result)))
