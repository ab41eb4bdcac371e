"""What a loss keeps outside its parameters and buffers: plain attributes that training changes, a queue's place say."""

from collections import deque
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

KINDS = (bool, int, float, str, list, tuple, dict, set, deque, np.ndarray, Tensor)


def attributes(loss: nn.Module) -> dict[str, Any]:
    """Copies of the attributes of a loss and of its modules that hold values, by dotted name; no private ones."""
    return {
        f"{path}.{name}" if path else name: deepcopy(value.detach() if isinstance(value, Tensor) else value)
        for path, module in loss.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, KINDS) and not name.startswith("_") and name != "training"
    }


def changes(before: dict[str, Any], loss: nn.Module) -> dict[str, Any]:
    """The attributes that are no longer what they were, as a checkpoint has them: in tensors, lists, dictionaries."""
    return {k: _kept(v) for k, v in attributes(loss).items() if k not in before or not _same(before[k], v)}


def restore(loss: nn.Module, values: dict[str, Any], device: torch.device) -> None:
    """Set attributes that :func:`changes` gave; those of a module that is no more are passed over.

    What a new loss has as a set, a deque, an array or a dictionary of a kind of its own is one again.
    """
    modules = dict(loss.named_modules())
    for place, value in values.items():
        path, _, name = place.rpartition(".")
        if path not in modules:
            continue
        now = vars(modules[path]).get(name)
        if isinstance(now, dict | set | deque):  # as it was made: with its length at most, what it gives by default
            now.clear()
            now.extend(value) if isinstance(now, deque) else now.update(value)
        elif isinstance(now, np.ndarray):
            setattr(modules[path], name, value.numpy().copy())
        else:
            setattr(modules[path], name, value.to(device) if isinstance(value, Tensor) else deepcopy(value))


def _kept(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value)
    if isinstance(value, set | deque):
        return list(value)
    if isinstance(value, dict):
        return dict(value)
    return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), value)


def _same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple | deque):
        return len(a) == len(b) and all(map(_same, a, b))
    return np.array_equal(a, b) if isinstance(a, np.ndarray) else bool(a == b)
