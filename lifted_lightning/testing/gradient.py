"""Whether a gradient is that of finite differences, and if it is not, what in the code has cut it."""

import copy
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode

CUTS = (  # what gives a value that no gradient goes through
    Tensor.detach, torch.detach, Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.__float__, Tensor.__int__,
    Tensor.__array__, Tensor.data.__get__,  # type: ignore[attr-defined]
)  # fmt: skip
NOT_THEIRS = (str(Path(__file__).parent), copy.__file__)  # how the copies that are asked are made
DIRECTIONS = 4
# Lengths of the differences, in the unit of the points, and how much of a slope may be wrong; of a hinge that is met on
# the way at one length, another is free.
EXACT = ((1e-6, 1e-5, 1e-4), 1e-4)
SINGLE = ((1e-2, 3e-3, 1e-3), 3e-2)  # of a value that is float32 though points are float64
Value = Callable[[Sequence[Tensor]], Tensor]  # of leaves


class Cut(NamedTuple):
    """A place in the code where a value lost its gradient."""

    what: str
    where: str
    value: Tensor


class Constants(TorchFunctionMode):
    """Notes the values that lose their gradient in a computation; or, given such, has them as they were.

    Args:
        no_grad: whether those are among them that a block without gradients takes up, which may be how a gradient of
            one's own is computed.
        noted: by another.
    """

    def __init__(self, no_grad: bool, noted: Sequence[Cut] = ()) -> None:
        super().__init__()
        self.cuts: list[Cut] = []
        self._no_grad = no_grad
        self._noted = list(noted)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (function in CUTS or (self._no_grad and not torch.is_grad_enabled())) and (place := _place()):
            what = "no_grad" if function not in CUTS else f".{getattr(function, '__name__', 'data')}"
            what = what.replace(".__get__", ".data").replace("__", "")
            args = tuple(self._constant(arg, what, place) for arg in args)
        return function(*args, **(kwargs or {}))

    def _constant(self, value: Any, what: str, place: str) -> Any:
        if not (isinstance(value, Tensor) and value.requires_grad):
            return value
        if self._noted:
            return self._noted.pop(0).value
        if not value.is_leaf:
            value.retain_grad()
        self.cuts.append(Cut(what, place, value))
        return value


def _place() -> str:
    """The user's line that is being run; nothing inside of an autograd function, which has a gradient of its own."""
    place = ""
    for frame, line in traceback.walk_stack(sys._getframe(2)):
        code = frame.f_code
        if code.co_argcount and isinstance(frame.f_locals.get(code.co_varnames[0]), FunctionCtx):
            return ""
        if not place and "/torch/" not in code.co_filename:
            if code.co_filename.startswith(NOT_THEIRS):
                return ""
            place = f"{code.co_filename.rsplit('/', 1)[-1]}:{line}"
    return place


def slopes_agree(value: Value, leaves: Sequence[Tensor]) -> tuple[str, list[Cut]]:
    """Compare the gradient with central differences along random directions.

    Args:
        value: the function, which gives the same for the same leaves.
        leaves: float64.

    Returns:
        What is wrong, empty where they agree; and the cuts that explain it: as constants they make it right.
    """
    at = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    result = value(at)
    gradients = torch.autograd.grad(result, at, allow_unused=True, materialize_grads=True)
    accuracy = EXACT if result.dtype == torch.float64 else SINGLE
    if not (text := _disagreement(value, leaves, gradients, accuracy, nullcontext)):
        return "", []
    for no_grad in (False, True):
        with suppress(Exception):  # of a computation that takes another way each time
            with (watch := Constants(no_grad)):
                result = value([leaf.detach().clone().requires_grad_() for leaf in leaves])
            result.backward()  # reaches, of what was cut, that which another way leads to
            held = partial(Constants, no_grad, watch.cuts)
            if watch.cuts and not _disagreement(value, leaves, gradients, accuracy, held):
                return text, watch.cuts
    return text, []


def _disagreement(
    value: Value,
    leaves: Sequence[Tensor],
    gradients: Sequence[Tensor],
    accuracy: tuple[Sequence[float], float],
    around: Callable[[], AbstractContextManager[object]],
) -> str:
    """Where a gradient first differs from the differences of a value that is taken inside of a context."""
    lengths, wrong = accuracy
    generator = torch.Generator().manual_seed(1)
    least = 0.01 * sum(float(gradient.square().sum()) for gradient in gradients) ** 0.5 + 1e-8

    def end(ways: Sequence[Tensor], step: float) -> float:
        points = [(leaf + step * way).requires_grad_() for leaf, way in zip(leaves, ways, strict=True)]
        with around():
            found = value(points)
        return float(found.detach())

    for _ in range(DIRECTIONS):
        ways = [torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in leaves]
        size = sum(float(way.square().sum()) for way in ways) ** 0.5
        slope = sum(float((gradient * way).sum()) / size for gradient, way in zip(gradients, ways, strict=True))
        found = [(end(ways, h / size) - end(ways, -h / size)) / (2 * h) for h in lengths]
        if not any(abs(slope - other) <= wrong * max(abs(slope), abs(other), least) for other in found):
            return f"slope {slope:.6g} along a direction, by finite differences {found[1]:.6g}"
    return ""
