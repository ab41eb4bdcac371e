"""A loss in training on two ranks, which are real processes that gather as a run does, beside one process."""

import os
import pickle
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from lifted_lightning.distributed import gather_with_gradient, own_share, rank, sum_over_ranks, world_size
from lifted_lightning.testing.examples import Batch
from lifted_lightning.testing.findings import ContractError, raised

WORLD = 2
DEADLINE = 60.0  # seconds that the two processes may take
RATE = 0.1  # of the descent of the loss's own parameters
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

    Raises:
        ContractError: for a value that is no scalar with a gradient of the embeddings, and if these are changed.
    """
    steps, own = [], [parameter for parameter in loss.parameters() if parameter.requires_grad]
    for number, (embeddings, labels) in enumerate(batches, first):
        share = own_share(len(labels))
        rows = embeddings[share.start : share.stop].clone().requires_grad_()
        gathered = gather_with_gradient(rows)
        seed(number)
        value = loss(given := gathered.clone(), named := labels.clone())
        if not torch.equal(given, gathered) or not torch.equal(named, labels):
            raise ContractError("writes into the embeddings or labels that it is given, which others read after it")
        if not isinstance(value, Tensor) or value.ndim or not value.is_floating_point():
            what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ContractError(f"gave {what}, not a scalar tensor of floating point")
        if not value.requires_grad:
            raise ContractError(f"gave {value.item():g} without a gradient: add 0 * embeddings.sum()")
        of_rows, *of_own = torch.autograd.grad(value, [rows, *own], allow_unused=True)
        if of_rows is None:
            raise ContractError("is not connected to the embeddings: add 0 * embeddings.sum()")
        full = [torch.zeros_like(p) if gradient is None else gradient for p, gradient in zip(own, of_own, strict=True)]
        averaged = [sum_over_ranks(gradient) / world_size() for gradient in full]
        with torch.no_grad():
            for parameter, gradient in zip(own, averaged, strict=True):
                parameter.sub_(RATE * gradient)
        steps.append(Step(value.detach().clone(), of_rows / world_size(), averaged))
    return steps


def on_two_ranks(tasks: Sequence[Task]) -> list[list[list[Step]]]:
    """What :func:`train` gives of each task on each of two ranks.

    Raises:
        ContractError: with what the rank said that could not end.
        Exception: of pickle's, for a loss that cannot be handed to another process.
    """
    code = "import sys; from lifted_lightning.testing.ranks import _rank; _rank(int(sys.argv[1]), sys.argv[2])"
    variables = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "tasks").write_bytes(pickle.dumps(list(tasks)))

        def answer_of(number: int) -> Any:
            command = [sys.executable, "-c", code, str(number), name]
            ended = subprocess.run(command, env=variables, input=b"", capture_output=True, timeout=DEADLINE)
            file = Path(name) / f"answer{number}"
            return pickle.loads(file.read_bytes()) if file.exists() else f"ended with code {ended.returncode}"

        try:
            with ThreadPoolExecutor(WORLD) as pool:
                answers = list(pool.map(answer_of, range(WORLD)))
        except subprocess.TimeoutExpired:
            text = f"two ranks have no answer after {DEADLINE:.0f} s: do they wait for each other?"
            raise ContractError(text) from None
    if said := [f"rank {number} of two {text}" for number, text in enumerate(answers) if isinstance(text, str)]:
        raise ContractError(min(said, key=lambda text: "gloo" in text))  # of the one that the other waited for
    return answers


def _rank(number: int, name: str) -> None:
    """One of the processes, which leaves its steps in the folder, or what it has raised."""
    torch.set_num_threads(1)
    folder = Path(name)
    answer: list[list[Step]] | str
    try:
        tasks = pickle.loads((folder / "tasks").read_bytes())
        end, store = timedelta(seconds=DEADLINE / 2), f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=number, world_size=WORLD, timeout=end)
        answer = [train(*task) for task in tasks]
        dist.barrier()  # nobody leaves while another still needs it
        dist.destroy_process_group()
    except Exception as error:
        answer = raised(error)
    (folder / f"answer{number}").write_bytes(pickle.dumps(answer))
