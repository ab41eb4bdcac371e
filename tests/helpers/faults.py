"""Ways for a run to end itself at a given moment, installed in its process before it starts."""

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

EVENTS = ("step", "validation", "writing", "renaming", "renamed")


def at(event: str, count: int, number: int = signal.SIGKILL, group: bool = False) -> Callable[[], None]:
    """A picklable function, after which the process sends itself a signal at an event's count-th time.

    Args:
        event: ``step``: in a training step, before the optimiser's; ``validation``: in a validation batch;
            ``test`` and ``predict``: in a batch of these; ``writing``: half of a checkpoint's bytes are written;
            ``renaming``: all are, under the temporary name; ``renamed``: just after the checkpoint has its name.
        count: how many times it must happen, from 1.
        number: the signal.
        group: whether its child processes get it too, as from a terminal.
    """
    assert event in (*EVENTS, "test", "predict")
    return partial(_install, event, count, number, group)


def _install(event: str, count: int, number: int, group: bool) -> None:
    if group:
        os.setpgid(0, 0)
    from lifted_lightning.training.module import EmbeddingModule

    left = count

    def happen() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def end() -> None:
        if group:
            os.killpg(0, number)
        else:
            os.kill(os.getpid(), number)

    def before(owner: Any, name: str, when: Callable[..., bool], first: Callable[..., None] | None = None) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if when(*args) and happen():
                if first:
                    first(*args)
                end()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    if event == "step":
        before(EmbeddingModule, "on_before_optimizer_step", lambda *args: True)
    elif event == "validation":
        before(EmbeddingModule, "validation_step", lambda *args: True)
    elif event in ("test", "predict"):
        before(EmbeddingModule, f"{event}_step", lambda *args: True)
    elif event == "writing":
        before(os, "fsync", lambda *args: True, lambda file: os.ftruncate(file, os.fstat(file).st_size // 2))
    elif event == "renaming":
        before(os, "replace", _is_checkpoint)
    else:
        original = os.replace

        def replace(source: Any, target: Any) -> None:
            original(source, target)
            if _is_checkpoint(source, target) and happen():
                end()

        os.replace = replace


def _is_checkpoint(source: Any, target: Any) -> bool:
    return str(target).endswith(".ckpt")
