"""Ways for a run to go wrong at a given moment: in its process, on one of its ranks, or in its numbers."""

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, Trainer
from torch import Tensor

from tests.helpers.tiny import TinyNetwork

EVENTS = ("step", "validation", "writing", "renaming", "renamed")


def at(event: str, count: int, number: int = signal.SIGKILL, group: bool = False) -> Callable[[], None]:
    """A picklable function, after which the process sends itself a signal at an event's count-th time.

    Args:
        event: ``step``: in a training step, before the optimiser's; ``validation``: in a validation batch;
            ``test`` and ``predict``: in a batch of these; ``loading``: before the first step;
            ``writing``: half of a checkpoint's bytes are written; ``renaming``: all are, under the
            temporary name; ``renamed``: just after ``last.ckpt`` has its name.
        count: how many times it must happen, from 1.
        number: the signal.
        group: whether its child processes get it too, as from a terminal.
    """
    assert event in (*EVENTS, "test", "predict", "loading")
    return partial(_install, event, count, number, group)


def _install(event: str, count: int, number: int, group: bool) -> None:
    if group:
        os.setpgid(0, 0)
    from lifted_lightning.data.datamodule import RetrievalDataModule
    from lifted_lightning.training.module import EmbeddingModule

    left = count

    def end(first: Callable[[], object] = lambda: None) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            first()
            os.killpg(0, number) if group else os.kill(os.getpid(), number)

    def wrap(
        owner: Any, name: str, before: Callable[..., object], after: Callable[..., object] = lambda *_: None
    ) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            before(*args)
            result = original(*args, **kwargs)
            after(*args)
            return result

        setattr(owner, name, wrapped)

    def of_checkpoint(source: Any, target: Any) -> None:
        if str(target).endswith(".ckpt"):
            end()

    def half_written(file: Any) -> None:
        end(lambda: os.ftruncate(file, os.fstat(file).st_size // 2))

    if event == "writing":
        wrap(os, "fsync", half_written)
    elif event == "renaming":
        wrap(os, "replace", of_checkpoint)
    elif event == "renamed":
        wrap(os, "replace", lambda *_: None, lambda source, target: Path(target).name == "last.ckpt" and end())
    elif event == "loading":
        wrap(RetrievalDataModule, "train_dataloader", lambda *_: end())
    else:
        hook = "on_before_optimizer_step" if event == "step" else f"{event}_step"
        wrap(EmbeddingModule, hook, lambda *_: end())


class NaNFrom(TinyNetwork):
    """Gives an embedding that is not a number in its third row, in training, from a call on."""

    def __init__(self, call: int = 3) -> None:
        super().__init__()
        self.calls_left = call

    def forward(self, images: Tensor) -> Tensor:
        embeddings = super().forward(images)
        if self.training:
            self.calls_left -= 1
            if self.calls_left <= 0:
                embeddings = embeddings.index_fill(0, embeddings.new_tensor([2]).long(), float("nan"))
        return embeddings


class Fault(Callback):
    """Something that goes wrong on one rank, at a training step.

    Args:
        rank: where.
        kind: ``raise`` an error, ``kill`` the process with SIGKILL, or ``hang`` for ten minutes.
        step: when.
        busy: seconds that every other rank then spends outside all communication.
    """

    def __init__(self, rank: int = 0, kind: str = "raise", step: int = 3, busy: float = 0.0) -> None:
        self.rank = rank
        self.kind = kind
        self.step = step
        self.busy = busy

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step != self.step:
            return
        if trainer.global_rank != self.rank:
            time.sleep(self.busy)
        elif self.kind == "raise":
            raise ValueError("my own error")
        elif self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        else:
            time.sleep(600)
