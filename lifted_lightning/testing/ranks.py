"""A loss in training on two ranks, which are real processes that gather as a run does, beside one process."""

import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifted_lightning.distributed import gather_with_gradient, own_share, rank, sum_over_ranks, world_size
from lifted_lightning.testing.findings import raised

WORLD = 2
DEADLINE = 60.0  # seconds that the two processes may take
RATE = 0.1  # of the descent of the loss's own parameters
Batch = tuple[Tensor, Tensor]  # embeddings (B, D), labels (B,)
Task = tuple[nn.Module, Sequence[Batch]]  # what is trained, a step on each batch


class Step(NamedTuple):
    """A training step as a rank sees it."""

    value: Tensor  # scalar
    rows: Tensor  # gradient of this rank's rows, of the loss that one process would have
    own: list[Tensor]  # gradients of the loss's own parameters, as DDP averages them


def seed(number: int) -> None:
    """Seed torch's draws alike on every rank, as a training step does, and all others apart, for nobody else does."""
    torch.default_generator.manual_seed(number)
    np.random.seed(number + 1000 * rank())
    random.seed(number + 1000 * rank())


def train(loss: nn.Module, batches: Sequence[Batch], first: int = 0) -> list[Step]:
    """Take a step on each batch, in which the loss's own parameters learn; a rank has its share of the rows.

    Args:
        loss: is changed by it.
        batches: of all ranks.
        first: the number of the first step, on which draws depend.
    """
    steps, own = [], [parameter for parameter in loss.parameters() if parameter.requires_grad]
    for number, (embeddings, labels) in enumerate(batches, first):
        share = own_share(len(labels))
        rows = embeddings[share.start : share.stop].clone().requires_grad_()
        gathered = gather_with_gradient(rows)
        seed(number)
        value = loss(gathered, labels)
        gradients = torch.autograd.grad(value, [rows, *own], allow_unused=True, materialize_grads=True)
        averaged = [sum_over_ranks(gradient) / world_size() for gradient in gradients[1:]]
        with torch.no_grad():
            for parameter, gradient in zip(own, averaged, strict=True):
                parameter.sub_(RATE * gradient)
        steps.append(Step(value.detach().clone(), gradients[0] / world_size(), averaged))
    return steps


def on_two_ranks(tasks: Sequence[Task]) -> list[list[list[Step]]]:
    """What :func:`train` gives of each task on each of two ranks.

    Raises:
        RuntimeError: with what the rank said that could not end.
        Exception: of pickle's, for a loss that cannot be handed to another process.
    """
    payload = pickle.dumps([(pickle.dumps(loss), list(batches)) for loss, batches in tasks])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks").write_bytes(payload)
        variables = os.environ | {
            "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        code = "import sys; from lifted_lightning.testing.ranks import _rank; _rank(int(sys.argv[1]), sys.argv[2])"
        command = [sys.executable, "-c", code]
        none = subprocess.DEVNULL
        processes = [
            subprocess.Popen([*command, str(number), name], env=variables, stdin=none, stdout=none, stderr=none)
            for number in range(WORLD)
        ]
        try:
            end = time.monotonic() + DEADLINE
            codes = [process.wait(max(0, end - time.monotonic())) for process in processes]
        except subprocess.TimeoutExpired:
            text = f"two ranks have no answer after {DEADLINE:.0f} s: do they wait for each other?"
            raise RuntimeError(text) from None
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(codes):
            said = [_failure(number, code, folder) for number, code in enumerate(codes) if code]
            raise RuntimeError(min(said, key=lambda text: "gloo" in text))  # of the one that the other waited for
        answers: list[Any] = [pickle.loads((folder / f"answer{number}").read_bytes()) for number in range(WORLD)]
    return answers


def _failure(number: int, code: int, folder: Path) -> str:
    file = folder / f"failure{number}"
    return f"rank {number} of two {file.read_text() if file.exists() else f'ended with code {code}'}"


def _rank(number: int, folder: str) -> None:
    """One of the processes."""
    torch.set_num_threads(1)
    try:
        tasks = pickle.loads((Path(folder) / "tasks").read_bytes())
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store",
            rank=number,
            world_size=WORLD,
            timeout=timedelta(seconds=DEADLINE / 2),
        )
        answers = [train(pickle.loads(loss), batches) for loss, batches in tasks]
        (Path(folder) / f"answer{number}").write_bytes(pickle.dumps(answers))
        dist.barrier()  # nobody leaves while another still needs it
    except Exception as error:
        (Path(folder) / f"failure{number}").write_text(raised(error))
        raise
    dist.destroy_process_group()
